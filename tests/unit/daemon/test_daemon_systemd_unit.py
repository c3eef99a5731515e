"""The replay server's unit: its command exists, and it may hold one capability."""

import configparser
from pathlib import Path

from nsstream_daemon.cli import app
from typer.testing import CliRunner

UNIT = Path(__file__).parents[3] / "systemd/nsstream-replay.service"


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_its_options_are_those_of_the_command():
    _, command, *arguments = service()["ExecStart"].split()
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    options = [argument for argument in arguments if argument.startswith("--")]
    assert command == "replay"
    assert options
    assert all(option in shown for option in options)


def test_it_may_hold_cap_net_raw_alone_and_is_nobody_else():
    unit = service()
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == "CAP_NET_RAW"
    assert unit["User"] == "nsstream-replay"
    assert "u nsstream-replay " in (UNIT.parent / "sysusers.d/nsstream.conf").read_text()
