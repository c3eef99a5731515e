"""The registry: what pyproject.toml registers, what others add, and the sentence for each text that names nothing."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nsstream.capture import PcapFileSource
from nsstream.capture.addresses import split_address
from nsstream.capture.child import ChildSource
from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.live import LiveSource
from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.capture.pipe import PipeSource
from nsstream.capture.registry import GROUP, open_source, source_names
from nsstream.capture.shark import PysharkSource
from nsstream.capture.spool import SpoolSource
from nsstream.errors import InputError
from nsstream.wire import pcap_header

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
OURS: dict[str, str] = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][GROUP]


def install(site: Path, name: str, points: dict[str, str]) -> None:
    """What an installed distribution leaves for importlib.metadata."""
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, ours among them as pyproject.toml says, whatever is installed here."""
    path = tmp_path / "site"
    install(path, "nsstream", OURS)
    monkeypatch.syspath_prepend(path)
    return path


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("live:eth0", LiveSource),
        ("tcpdump:eth0", ChildSource),
        ("dumpcap:eth0", ChildSource),
        ("fifo:/run/a:b", PipeSource),
        ("-", PipeSource),
        ("spool:/var/spool", SpoolSource),
        ("file:a.pcap", PcapFileSource),
        ("pyshark:a.pcap", PysharkSource),
        ("netflow:127.0.0.1:2055", NetflowUdpSource),
        ("netflow:[::1]", NetflowUdpSource),
        ("ipfix-tcp::4739", NetflowTcpSource),
        ("nfcapd:a", NfcapdFileSource),
    ],
)
def test_text_names_its_source(spec: str, kind: type) -> None:
    assert isinstance(open_source(spec), kind)


@pytest.mark.usefixtures("site")
def test_every_name_of_ours_loads() -> None:
    assert source_names() == sorted(OURS)
    for name in OURS:
        target = "127.0.0.1:2055" if name in ("netflow", "ipfix-tcp") else "x"
        source = open_source(f"{name}:{target}")
        assert source.tally.offered == 0
        source.close()


@pytest.mark.usefixtures("site")
def test_path_is_read_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "odd:name.pcap").write_bytes(pcap_header())
    (tmp_path / "nfcapd.1").write_bytes(b"\x0c\xa5\1\0")
    (tmp_path / "conn.log.xz").write_bytes(lzma.compress(b"#separator \\x09\n#fields\tts\n"))
    (tmp_path / "half").write_bytes(b"abc")
    os.mkfifo(tmp_path / "fifo")
    assert isinstance(open_source(str(tmp_path / "odd:name.pcap"), allow_cut=True), PcapFileSource)
    assert isinstance(open_source(str(tmp_path / "nfcapd.1")), NfcapdFileSource)
    assert isinstance(open_source(str(tmp_path / "conn.log.xz"), preset="zeek"), FlowCsvSource)
    assert isinstance(open_source(str(tmp_path / "half")), PcapFileSource)
    assert isinstance(open_source(str(tmp_path / "fifo")), PipeSource)
    with pytest.raises(InputError, match="is a directory; `spool:"):
        open_source(str(tmp_path))


@pytest.mark.usefixtures("site")
def test_relative_path_with_a_colon_that_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("day:1.pcap").write_bytes(pcap_header())
    assert isinstance(open_source("day:1.pcap"), PcapFileSource)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("spec", "options", "complaint"),
    [
        ("nothing:eth0", {}, r"there is no source 'nothing', and no such file; sources: csv, dumpcap, .*tcpdump"),
        ("no/such.pcap", {}, "cannot be read: No such file or directory"),
        ("a\0b", {}, "cannot be read: embedded null"),
        ("", {}, "is a directory|cannot be read"),
        ("tcpdump:eth0", {"speed": 1}, r"unexpected keyword argument 'speed'; options: capture_filter, snaplen"),
        ("netflow:localhost", {}, "no numeric address"),
        ("netflow:127.0.0.1:70000", {}, "the port must be a number from 0 to 65535"),
        ("netflow:127.0.0.1:x", {}, "the port must be a number from 0 to 65535"),
        ("netflow:127.0.0.1", {"speed": 1}, "unexpected keyword argument 'speed'"),
        ("netflow-replay:a", {"buffer_bytes": 1}, "buffer_bytes must be at least 64"),
    ],
)
def test_text_that_names_nothing_is_refused_in_one_sentence(
    spec: str, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        open_source(spec, **options)
    assert "\n" not in str(caught.value)


def test_others_register_theirs(site: Path) -> None:
    (site / "their_card.py").write_text(
        "class CardSource:\n    def __init__(self, port, *, speed=1):\n        self.port, self.speed = port, speed\n"
    )
    install(site, "their-card", {"card": "their_card:CardSource"})
    install(site, "broken", {"gone": "no_such_module:Gone", "odd": "their_card:__name__"})
    source = open_source("card:7", speed=3)
    assert (source.port, source.speed) == ("7", 3)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the source 'gone' of broken cannot be loaded: No module named"):
        open_source("gone:1")
    with pytest.raises(InputError, match="the source 'odd' of broken is not callable"):
        open_source("odd:1")
    install(site, "other-card", {"card": "other_card:CardSource"})
    with pytest.raises(InputError, match="is registered by other-card and their-card"):
        open_source("card:7")


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, nsstream.capture.registry as r; r.source_names(); "
        "late = ('pyshark', 'lxml', 'nsstream.capture.live', 'nsstream.capture.shark'); "
        "print([name for name in sys.modules if name.startswith(late)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9", ("127.0.0.1", 9)),
        ("127.0.0.1", ("127.0.0.1", 2055)),
        (":9", ("0.0.0.0", 9)),
        ("", ("0.0.0.0", 2055)),
        ("[::1]:9", ("::1", 9)),
        ("[::1]", ("::1", 2055)),
        ("::1", ("::1", 2055)),
    ],
)
def test_address_and_port_are_split(text: str, address: tuple[str, int]) -> None:
    assert split_address(text, 2055) == address
