"""A testbed of two interfaces: a twin split into client's and server's side, sent by tcpreplay, and counted.

`write_scenario` makes a directory with the twin, tcpprep's cache of its sides, and what is expected of it, which can be
replayed by tcpreplay alone; `run_scenario` replays it and holds the interfaces' counters before and after against that.
A scenario is there whole or not at all; a run that is stopped leaves no tcpreplay behind.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from nsstream.capture.source import IDLE_S
from nsstream.capture.tool_process import ToolProcess, wait_readable
from nsstream.errors import InputError, OutputError
from nsstream.replay import PacketBatch, ReplayClient
from nsstream.replay.batch import End
from nsstream.replay.safety import SendingRules
from nsstream.replay.tcpprep_cache import cache_file
from nsstream.replay.tcpreplay_child import sum_summaries
from nsstream.wire.pcap import pcap_header, write_records

TWIN: Final = "twin.pcap"
CACHE: Final = "twin.cache"
SCENARIO: Final = "scenario.json"
SCRIPT: Final = "replay.sh"
RESULT: Final = "result.json"
FORMAT: Final = "nsstream-testbed"
VERSION: Final = 1
COUNTERS: Final = ("tx_packets", "tx_bytes", "tx_dropped", "tx_errors", "rx_packets", "rx_bytes", "rx_dropped")
GRACE_S: Final = 5.0
SETTLE_S: Final = 10.0  # for what was sent to be counted where it arrives


@dataclass(frozen=True)
class Scenario:
    """What a directory holds: names of interfaces, what leaves each, and how long it takes at its own pace."""

    client_interface: str
    server_interface: str
    client_packets: int
    server_packets: int
    client_octets: int
    server_octets: int
    duration_s: float
    longest_frame: int

    @property
    def packets(self) -> int:
        """Of both sides."""
        return self.client_packets + self.server_packets


@dataclass
class Check:
    """One line of the summary."""

    name: str
    expected: int
    found: int
    is_met: bool


@dataclass
class Result:
    """What a run gave."""

    checks: list[Check] = field(default_factory=list)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)  # what was added, by interface
    elapsed_s: float = 0.0

    @property
    def has_passed(self) -> bool:
        """Whether every check was met."""
        return all(check.is_met for check in self.checks)


def write_scenario(
    directory: Path,
    client: ReplayClient,
    stream: Mapping[str, Any],
    interfaces: tuple[str, str],
    **options: Any,
) -> Scenario:
    """Draw a twin through a replay server into a directory that is not there yet.

    Args:
        directory: to make.
        client: of the server.
        stream: as of `ReplayClient.start`.
        interfaces: the client's and the server's.
        options: others of `ReplayClient.start`: seed, mtu, testbed, scenario, loop.

    Raises NsstreamError.
    """
    if directory.exists():
        raise OutputError(f"{directory} is there already; give another name")
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.absolute().parent))
    except OSError as err:
        raise OutputError(f"{directory}: {(err.strerror or str(err)).lower()}") from err
    try:
        scenario = _draw(made, client, stream, interfaces, options)
        told = {"format": FORMAT, "version": VERSION, **asdict(scenario)}
        (made / SCENARIO).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        script = made / SCRIPT
        words = shlex.join(_command(scenario)[:-1])
        script.write_text(f'#!/bin/sh\ncd "$(dirname -- "$0")" && exec {words} "$@" {TWIN}\n')
        script.chmod(0o755)
        made.chmod(0o755)
        made.rename(directory)
    except OSError as err:
        raise OutputError(f"{directory}: {(err.strerror or str(err)).lower()}") from err
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return scenario


def read_scenario(directory: Path) -> Scenario:
    """The scenario in a directory; raises InputError."""
    path = directory / SCENARIO
    try:
        told = json.loads(path.read_bytes())
        if (told.pop("format"), told.pop("version")) != (FORMAT, VERSION):
            raise InputError(f"{path}: is no scenario of this nsstream")
        return Scenario(**told)
    except OSError as err:
        raise InputError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InputError(f"{path}: is no scenario: {err}") from err


def run_scenario(
    directory: Path, *, options: Sequence[str] = (), watched: Sequence[str] = (), default_route: bool = False
) -> Result:
    """Replay a scenario, and say whether what was expected is what the interfaces counted.

    Args:
        directory: of the scenario.
        options: tcpreplay's own, such as ``--pps=1000``; without them it keeps the twin's own pace.
        watched: where frames must arrive: ``eth3`` those of both sides, ``eth3:client`` or ``eth3:server`` those of
            one; of the two interfaces themselves those of the other one.
        default_route: whether an interface that a default route leads through is meant.

    Raises NsstreamError where it cannot be begun; the result is written beside the scenario.
    """
    scenario = read_scenario(directory)
    sides = (scenario.client_interface, scenario.server_interface)
    rules = SendingRules(frozenset(sides), frozenset(sides) if default_route else frozenset())
    for name in sides:
        if rules.check(name, is_default_route_meant=default_route).mtu + 18 < scenario.longest_frame:
            raise OutputError(f"{name}: its MTU is too small for frames of {scenario.longest_frame} octets")
    arrivals = dict(_arrival(scenario, text) for text in watched)
    names = [*dict.fromkeys((*sides, *arrivals))]
    before = {name: _counters(name) for name in names}
    began_s = time.monotonic()
    sent = _replay(directory, _command(scenario) + list(options))
    result = Result(elapsed_s=time.monotonic() - began_s)
    until_s = time.monotonic() + SETTLE_S
    while True:
        result.counters = {
            name: {key: value - before[name][key] for key, value in _counters(name).items()} for name in names
        }
        result.checks = _checks(scenario, sent, result.counters, arrivals)
        if result.has_passed or time.monotonic() > until_s:
            break
        time.sleep(0.05)
    with suppress(OSError):  # a scenario on a medium that nobody may write to
        told = {"has_passed": result.has_passed, **asdict(result)}
        (directory / RESULT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return result


def _draw(
    made: Path, client: ReplayClient, stream: Mapping[str, Any], interfaces: tuple[str, str], options: Mapping[str, Any]
) -> Scenario:
    packets, octets = [0, 0], [0, 0]
    sides: list[np.ndarray] = []
    first_ns, last_ns, longest = 0, 0, 0
    items = client.packets("testbed")
    try:
        client.start(stream, {"kind": "subscribers", "wait_for": 1, "when_behind": "wait"}, **options)
        with (made / TWIN).open("wb") as file:
            file.write(pcap_header())
            for item in items:
                if isinstance(item, End):
                    break
                if not isinstance(item, PacketBatch) or item.side is None:
                    raise OutputError("packets of the twin were missed; the server is too busy")
                file.write(write_records(item.observation_time_ns, item.offset, item.octets))
                lengths = np.diff(item.offset)
                for side in (0, 1):
                    packets[side] += int(np.count_nonzero(item.side == side))
                    octets[side] += int(lengths[item.side == side].sum())
                first_ns = first_ns or int(item.observation_time_ns[0])
                last_ns, longest = int(item.observation_time_ns[-1]), max(longest, int(lengths.max()))
                sides.append(item.side == 0)
    finally:
        items.close()  # type: ignore[attr-defined]  # a generator
    client.wait()
    if not sides:
        raise InputError("nothing of the twin is left to send")
    (made / CACHE).write_bytes(cache_file(np.concatenate(sides), "nsstream testbed"))
    return Scenario(
        client_interface=interfaces[0],
        server_interface=interfaces[1],
        client_packets=packets[0],
        server_packets=packets[1],
        client_octets=octets[0],
        server_octets=octets[1],
        duration_s=(last_ns - first_ns) * 1e-9,
        longest_frame=longest,
    )


def _command(scenario: Scenario) -> list[str]:
    sides = [f"--intf1={scenario.client_interface}", f"--intf2={scenario.server_interface}"]
    return ["tcpreplay", "--quiet", f"--cachefile={CACHE}", *sides, TWIN]


def _replay(directory: Path, command: Sequence[str]) -> dict[str, int]:
    """Run tcpreplay; its summary. Raises OutputError if it fails."""
    twin = command.index(TWIN)
    placed = [word.replace(f"={CACHE}", f"={(directory / CACHE).absolute()}") for word in command]
    placed = [*placed[:twin], *placed[twin + 1 :], str((directory / TWIN).absolute())]
    tool, said = ToolProcess(placed), b""
    status = -1
    try:
        while True:
            tool.listen()
            if wait_readable(tool.stdout, IDLE_S):
                octets = os.read(tool.stdout, 1 << 16)
                said = (said + octets)[-(1 << 16) :]
                if not octets:
                    break
    finally:
        status = tool.end(time.monotonic() + GRACE_S)
    summary = sum_summaries(said)
    if status or summary is None:
        raise OutputError(tool.obituary(status))
    return summary


def _checks(
    scenario: Scenario, sent: Mapping[str, int], added: Mapping[str, Mapping[str, int]], arrivals: Mapping[str, int]
) -> list[Check]:
    """A device counts what others send, too: so it must have counted that much at least."""
    found = sent["successful"]
    checks = [
        Check("sent by tcpreplay", scenario.packets, found, found == scenario.packets),
        Check("failed in tcpreplay", 0, sent["failed"], sent["failed"] == 0),
    ]
    sides = (scenario.client_interface, scenario.client_packets), (scenario.server_interface, scenario.server_packets)
    for name, expected in sides:
        checks.append(
            Check(f"left by {name}", expected, added[name]["tx_packets"], added[name]["tx_packets"] >= expected)
        )
        lost = added[name]["tx_dropped"] + added[name]["tx_errors"]
        checks.append(Check(f"dropped by {name}", 0, lost, lost == 0))
    for name, expected in arrivals.items():
        arrived = added[name]["rx_packets"]
        checks.append(Check(f"arrived at {name}", expected, arrived, arrived >= expected))
    return checks


def _arrival(scenario: Scenario, text: str) -> tuple[str, int]:
    """An interface, and how many frames must arrive there."""
    name, _, side = text.partition(":")
    sent = {"client": scenario.client_packets, "server": scenario.server_packets, "": scenario.packets}
    if side not in sent:
        raise InputError(f"{text}: an interface to watch is like eth3, eth3:client or eth3:server")
    if not side and name == scenario.client_interface:
        return name, scenario.server_packets
    if not side and name == scenario.server_interface:
        return name, scenario.client_packets
    return name, sent[side]


def _counters(name: str) -> dict[str, int]:
    folder = Path("/sys/class/net") / name / "statistics"
    try:
        return {counter: int((folder / counter).read_text()) for counter in COUNTERS}
    except (OSError, ValueError) as err:
        raise InputError(f"{name}: there is no such interface") from err
