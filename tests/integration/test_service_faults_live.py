"""Faults around a live source: the clock is set, the interface goes and comes, exporters shout."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_netflow import FLOWS_A_DATAGRAM, data_set, template_set, v5, v9
from service_nest import HERE, Nest, wait_until

from nsstream.chunk import ChunkStore
from nsstream.model.promotion import read_promoted

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.replay_frames import lab_frames, write_frames
from bars.veth import VethPair, veth_pair

COMPILES_S = 300  # numba, where nothing was decoded on this machine before
HOUR_S = 3600


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


def tally_of(nest: Nest) -> dict[str, Any]:
    tally: dict[str, Any] = nest.ask("status")["capture"]["tally"]
    return tally


class Exporter:
    """Sends flows of chosen times to a daemon."""

    def __init__(self, nest: Nest, port: int) -> None:
        self.nest, self.end, self.sent, self.told = nest, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0, 0
        self.end.connect(("127.0.0.1", port))

    def export(self, at_s: float) -> None:
        """Flows that end at a time, and wait until they are taken."""
        sets = [template_set(9)] if not self.told else []
        self.end.send(v9(*sets, data_set(self.sent, at_ms=int(at_s * 1000)), sequence=self.told, at_s=at_s + 1))
        self.sent, self.told = self.sent + FLOWS_A_DATAGRAM, self.told + 1
        wait_until(lambda: tally_of(self.nest)["offered"] == self.sent, COMPILES_S)

    def close(self) -> None:
        self.end.close()


def test_a_clock_that_is_set_by_an_hour_both_ways(tmp_path: Path):
    port = free_udp_port()
    nest = Nest(
        tmp_path,
        source={"input": f"netflow:127.0.0.1:{port}"},
        chunks={"length_s": 10, "lateness_s": 1},
        training={"fewest_conversations": 16, "start_from": "newest"},
    )
    exporter = Exporter(nest, port)
    try:
        nest.start()
        wait_until(lambda: nest.ask("status")["ready"])
        base_s = time.time() // 10 * 10 - 300
        wrong_s, steps = 0, 0
        # The source has the machine's clock, and mends times that are more than an hour from it.
        for now_wrong_s, at_s in ((0, 0), (HOUR_S, 30), (0, 20), (-3000, 60), (0, 90)):
            if now_wrong_s != wrong_s:
                new = nest.quick / "clock.new"
                new.write_text(str(now_wrong_s))
                new.rename(nest.quick / "clock")
                steps, wrong_s = steps + 1, now_wrong_s
                wait_until(lambda steps=steps: nest.log.read_text().count("clock_stepped seconds=") == steps)
            for later_s in (1, 11, 21):
                exporter.export(base_s + wrong_s + at_s + later_s)
            wait_until(lambda: is_idle(nest))
            # What was closed is learned; the newest by the clock as it is now is promoted, though it once said later.
            now_ns = int((time.time() + wrong_s) * 1e9)
            ends = [end_ns for (end_ns,) in nest.rows("SELECT end_ns FROM model") if end_ns <= now_ns]
            assert nest.ask("status")["training"]["promoted"]["end_ns"] == max(ends)
        nest.ask("flush")
        wait_until(lambda: is_idle(nest))
        tally = tally_of(nest)
        assert tally["offered"] == tally["kept"] == exporter.sent == 15 * FLOWS_A_DATAGRAM
        infos = ChunkStore(nest.state / "chunks").list()
        assert sum(info.row_count for info in infos) == exporter.sent
        assert any(info.id.endswith("-p1") for info in infos)  # of a time that was captured twice
        assert nest.done() == len(infos)
        text = nest.log.read_text()
        said = [line.split("=")[1] for line in text.splitlines() if line.startswith("clock_stepped")]
        assert said == ["+3600", "-3600", "-3000", "+3000"]
        assert text.count("chunks_begin_anew") == 2
        assert nest.ask("status")["healthy"]
        assert nest.stop() == 0
    finally:
        exporter.close()
        nest.close()


def is_idle(nest: Nest) -> bool:
    status = nest.ask("status")
    is_seen = status["capture"]["chunks"] == sum(status["training"]["chunks"].values())
    waits = sum(status["training"]["jobs"][state] for state in ("pending", "claimed", "running", "failed"))
    return is_seen and not waits


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with veth_pair() as made:
        yield made


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@pytest.mark.skipif(not all(map(shutil.which, ("ip", "tcpreplay"))), reason="needs iproute2 and tcpreplay")
def test_an_interface_that_goes_down_and_up_and_is_made_anew(tmp_path: Path, pair: VethPair):
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    capture = tmp_path / "lab.pcap"
    write_frames(capture, lab_frames(5))
    nest = Nest(tmp_path, source={"input": "live:rx"}, chunks={"length_s": 1}, training={"fewest_conversations": 16})
    nest.settings["chunks"]["lateness_s"] = 1
    nest.write_config()
    sent = 0

    def send() -> None:
        nonlocal sent
        came = pair.send(capture, "--topspeed", "--limit=400")
        assert came.received_count == came.successful_count
        sent += came.received_count
        wait_until(lambda: tally_of(nest)["offered"] == sent, COMPILES_S)

    try:
        nest.start(
            "ip", "netns", "exec", pair.receiver, sys.executable, str(HERE / "service_daemon.py"), str(nest.config)
        )
        wait_until(lambda: nest.ask("status")["ready"])
        send()
        for at in range(1, 3):
            ip("-n", pair.receiver, "link", "set", "rx", "down")
            wait_until(lambda at=at: nest.log.read_text().count("interface down interface=rx") == at)
            ip("-n", pair.receiver, "link", "set", "rx", "up")
            wait_until(lambda at=at: nest.log.read_text().count("interface up interface=rx") == at)
            send()
        ip("-n", pair.receiver, "link", "del", "rx")
        wait_until(lambda: nest.ask("status")["capture"]["restarts"] >= 4)  # longer away than a moment
        status = nest.ask("status")
        assert (status["healthy"], status["ready"]) == (True, False)
        assert "rx" in status["capture"]["error"]
        ends = (["name", "tx", "netns", pair.sender], ["name", "rx", "netns", pair.receiver])
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for namespace, device in ((pair.receiver, "rx"), (pair.sender, "tx")):
            ip("-n", namespace, "link", "set", "dev", device, "up")
        wait_until(lambda: nest.ask("status")["capture"]["state"] == "running")
        send()
        nest.ask("flush")
        wait_until(lambda: is_idle(nest))
        tally = tally_of(nest)
        assert tally["offered"] == sent
        assert tally["kept"] + sum(tally["unsupported"].values()) + sum(tally["malformed"].values()) == sent
        assert tally["dropped"] == {}
        infos = ChunkStore(nest.state / "chunks").list()
        assert sum(info.row_count for info in infos) == tally["kept"]
        assert "source_restarts" in nest.log.read_text()
        assert nest.stop() == 0
    finally:
        nest.close()


def test_exporters_that_shout_are_counted_and_hold_nothing_up(tmp_path: Path):
    """A flood of all that one core can send, into a buffer of an instant's worth, while training runs."""
    port = free_udp_port()
    nest = Nest(
        tmp_path,
        source={"input": f"netflow:127.0.0.1:{port}"},
        chunks={"length_s": 1, "lateness_s": 1, "max_rows": 200_000},
        training={"fewest_conversations": 16},
    )
    nest.tail = "[source.options]\nreceive_buffer_bytes = 200000\n"
    nest.write_config()
    try:
        nest.start()
        wait_until(lambda: nest.ask("status")["ready"])
        sent = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.connect(("127.0.0.1", port))

            def send(count: int) -> None:
                nonlocal sent
                for _ in range(count):
                    end.send(v5(0, sequence=sent * FLOWS_A_DATAGRAM))
                    sent += 1

            def accounted() -> int:
                tally = tally_of(nest)
                taken = tally["kept"] + tally["sampled_out"] + tally["late"]
                assert taken % FLOWS_A_DATAGRAM == 0
                return taken // FLOWS_A_DATAGRAM + tally["dropped"].get("socket", 0)

            send(20)
            wait_until(lambda: accounted() == sent, COMPILES_S)
            (nest.quick / "slow").touch()
            wait_until(lambda: (nest.quick / "pid").exists())
            datagram = v5(0, sequence=0)
            for _ in range(60_000):  # some 1.8 million flows, ten times what came before in as long
                end.send(datagram)
            sent += 60_000
            wait_until(lambda: accounted() == sent)
            status = nest.ask("status")
            assert status["healthy"]
            assert status["capture"]["tally"]["dropped"]["socket"] > 0
            assert status["memory_octets"] < 700e6
            (nest.quick / "slow").unlink()
            send(20)
            wait_until(lambda: accounted() == sent)
        wait_until(lambda: nest.done() >= 1)
        nest.ask("flush")
        wait_until(lambda: is_idle(nest))
        tally = tally_of(nest)
        assert tally["offered"] == sum(
            value if isinstance(value, int) else sum(value.values())
            for name, value in tally.items()
            if name not in ("offered", "behind")
        )
        infos = ChunkStore(nest.state / "chunks").list()
        assert sum(info.row_count for info in infos) == tally["kept"]
        trained = (nest.quick / "trained").read_text().split()
        assert len(trained) == len(set(trained)) == nest.done()
        assert read_promoted(nest.state / "models").is_dir()
        assert nest.stop() == 0
    finally:
        nest.close()
