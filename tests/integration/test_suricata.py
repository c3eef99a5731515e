"""Suricata itself: a twin in its directory is read whole and without a fault, and its logs of flows are our sources."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import lzma
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checkpoints import drawn_checkpoint
from namespaces import wait_until
from nsstream_plugins.lab import LAB

from nsstream.capture.followed_table import eve_source
from nsstream.capture.table_socket import TableSocketSource
from nsstream.replay import spawn_server
from nsstream.trace import FlowTable

pytestmark = pytest.mark.skipif(not shutil.which("suricata"), reason="needs suricata (bookworm-backports)")
PATIENCE_S = 300.0
# Ends of connections that a model says began before its chunk: the twin does not have their beginning.
BEGAN_BEFORE = {"stream.fin_but_no_session", "stream.rst_but_no_session"}
# Segments that are sent again, a FIN among them, as on any network with loss; nothing is wrong with those.
SENT_AGAIN = {
    "stream.pkt_retransmission", "stream.pkt_spurious_retransmission", "stream.closewait_fin_out_of_window"
}  # fmt: skip
CONFIG = """%YAML 1.1
---
default-log-dir: LOGS
stats:
  enabled: yes
  interval: 1
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - flow
        - stats:
            totals: yes
            threads: no
        - anomaly:
            enabled: yes
            types:
              decode: yes
              stream: yes
              applayer: no
MORE
pcap-file:
  delay: 1
  poll-interval: 1
  checksum-checks: yes
stream:
  checksum-validation: yes
  midstream: no
"""
SOCKET = """
  - eve-log:
      enabled: yes
      filetype: KIND
      filename: PATH
      types:
        - flow
"""


def command(place: Path, captures: Path, *options: str, more: str = "") -> list[str]:
    """A Suricata without rules that reads captures and logs into ``logs``; checksums are checked."""
    logs, conf = place / "logs", place / "suricata.yaml"
    logs.mkdir(exist_ok=True)
    conf.write_text(CONFIG.replace("LOGS", str(logs)).replace("MORE", more))
    return ["suricata", "-c", str(conf), "-S", "/dev/null", "-k", "all", "-l", str(logs), "-r", str(captures), *options]


def events(place: Path) -> dict[str, list[dict[str, Any]]]:
    """What stands in eve.json, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (place / "logs/eve.json").read_text().splitlines():
        event = json.loads(line)
        found.setdefault(event["event_type"], []).append(event)
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "lab.pcap"
    path.write_bytes(lzma.decompress(LAB.read_bytes()))
    return path


def test_a_twin_that_comes_into_its_directory_is_read_whole_and_without_a_fault(tmp_path):
    model = drawn_checkpoint(tmp_path / "models")
    drop, parts = tmp_path / "drop", tmp_path / "parts"
    for directory in (drop, parts):
        directory.mkdir()
    said = tmp_path / "said"
    with said.open("wb") as output:
        tool = subprocess.Popen(
            command(tmp_path, drop, "--pcap-file-continuous", "--pcap-file-delete"), stdout=output, stderr=output
        )
    try:
        sink = {"kind": "pcap", "path": str(drop / "twin.pcap"), "rotate_s": 20, "parts_in": str(parts)}
        with spawn_server() as client:
            client.start({"kind": "models", "models": [str(model)]}, sink)
            written = client.wait().packets_written
        wait_until(lambda: not list(drop.iterdir()))
        tool.send_signal(signal.SIGINT)
        tool.wait(PATIENCE_S)
    finally:
        tool.kill()
        tool.wait()
    assert tool.returncode == 0, said.read_text()
    told = events(tmp_path)
    stats = told["stats"][-1]["stats"]
    assert stats["decoder"]["pkts"] == written > 100
    assert stats["decoder"]["invalid"] == 0
    assert stats["tcp"]["invalid_checksum"] == 0
    assert {event["anomaly"]["event"] for event in told.get("anomaly", [])} <= SENT_AGAIN | BEGAN_BEFORE
    assert stats["tcp"]["sessions"] > 0
    assert stats["tcp"].get("reassembly_gap", 0) == 0


def ends_of(event: Mapping[str, Any]) -> tuple[object, ...]:
    """A flow event by what tells it from others, as `ends_in` has it of rows."""
    flow, has_ports = event["flow"], event["proto"] in ("TCP", "UDP")
    numbers = (flow["pkts_toserver"], flow["pkts_toclient"])
    ports = (event["src_port"], event["dest_port"]) if has_ports else (0, 0)
    return (str(ipaddress.ip_address(event["src_ip"])), str(ipaddress.ip_address(event["dest_ip"])), *ports, *numbers)


def ends_in(flows: FlowTable) -> list[tuple[object, ...]]:
    def text(octets: Any) -> str:
        address = ipaddress.IPv6Address(octets.tobytes())
        return str(address.ipv4_mapped or address)

    return [
        (
            text(flows.source_address[i]), text(flows.destination_address[i]),
            int(flows.source_transport_port[i]), int(flows.destination_transport_port[i]),
            int(flows.packet_delta_count[i]), int(flows.reverse_packet_delta_count[i]),
        )
        for i in range(len(flows))
    ]  # fmt: skip


def test_each_flow_that_it_logs_is_a_row(lab, tmp_path):
    done = subprocess.run(command(tmp_path, lab), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    told = events(tmp_path)
    source = eve_source(str(tmp_path / "logs/eve.json"))
    source.open()
    with contextlib.closing(source):
        rows: list[tuple[object, ...]] = []
        until_s = time.monotonic() + PATIENCE_S
        while (flows := source.read_batch()) is not None and (len(flows) or len(rows) < len(told["flow"])):
            assert time.monotonic() < until_s
            rows += ends_in(flows)
    assert Counter(rows) == Counter(map(ends_of, told["flow"]))
    assert source.tally.kept == len(told["flow"]) > 1000
    assert source.tally.unsupported == {"other_record": sum(map(len, told.values())) - len(told["flow"])}
    assert not source.tally.malformed


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_each_flow_that_it_sends_to_a_socket_comes(lab, tmp_path, kind):
    path = tmp_path / "eve.sock"
    source = TableSocketSource(path, kind=kind)
    source.open()
    more = SOCKET.replace("KIND", f"unix_{kind}").replace("PATH", str(path))
    with contextlib.closing(source):
        tool = subprocess.Popen(command(tmp_path, lab, more=more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows: list[tuple[object, ...]] = []
        until_s = time.monotonic() + PATIENCE_S
        while (flows := source.read_batch()) is not None and (len(flows) or tool.poll() is None):
            assert time.monotonic() < until_s
            rows += ends_in(flows)
        assert tool.wait(PATIENCE_S) == 0
        told = Counter(map(ends_of, events(tmp_path)["flow"]))
        while kind == "stream" and len(rows) < told.total():  # what it sent before it ended is still to be read
            assert time.monotonic() < until_s
            flows = source.read_batch()
            assert flows is not None
            rows += ends_in(flows)
    if kind == "stream":
        assert Counter(rows) == told
    else:  # of datagrams Suricata drops those that do not fit into the socket at once, and counts them itself
        assert rows
        assert not Counter(rows) - told
    assert not source.tally.malformed
