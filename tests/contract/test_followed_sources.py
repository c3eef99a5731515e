"""The published rules of sources, held to tables that are followed, and to those that come through a socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_logs import eve_line, eve_stats, zeek_header, zeek_line
from rotated_log import RotatedLog

from nsstream.capture.contract import RULES, SourceCase, check_refusal
from nsstream.capture.followed_table import FollowedTableSource, eve_source
from nsstream.capture.source import Source
from nsstream.capture.table_socket import TableSocketSource

FLOWS = 300
EXPECTED = {
    "source_address": np.array([[*bytes(10), 255, 255, 10, 0, n >> 8, n & 255] for n in range(FLOWS)], np.uint8),
    "octet_delta_count": np.full(FLOWS, 100, np.uint64),
    "reverse_octet_delta_count": np.full(FLOWS, 100, np.uint64),
}


def rotated_eve(_: Any, directory: Path) -> None:
    """Three files, by both ways of rotation, with a line in two pieces."""
    log = RotatedLog(directory / "eve.json")
    for number in range(FLOWS):
        line = eve_line(number)
        log.write(eve_stats() + line[:20] if number % 50 == 0 else line[:20])
        log.write(line[20:])
        if number == 100:
            log.rename()
        if number == 200:
            log.copy_and_truncate()
    log.close()


def rotated_zeek(_: Any, directory: Path) -> None:
    """Each file begins with a header, and one has it in its middle again, as after a restart of Zeek."""
    log = RotatedLog(directory / "conn.log")
    for number in range(FLOWS):
        if number in (0, 100, 150):
            log.write(zeek_header())
        log.write(zeek_line(number))
        if number == 99:
            log.write(b"#close\t2026-01-01-01-00-00\n")
            log.rename()
    log.close()


def there_before(directory: Path) -> Source[Any]:
    (directory / "eve.json").write_bytes(b"".join(map(eve_line, range(FLOWS))))
    return eve_source(str(directory / "eve.json"), block_bytes=1)


def send_stream(_: Any, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sender:
        sender.connect(str(directory / "eve.sock"))
        sender.sendall(b"".join(map(eve_line, range(FLOWS))))


def send_datagrams(_: Any, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(directory / "eve.sock"))
        for first in range(0, FLOWS, 50):  # few enough that they wait without a reader: net.unix.max_dgram_qlen
            sender.send(b"".join(map(eve_line, range(first, first + 50))))


CASES = {
    "eve": SourceCase(lambda d: eve_source(str(d / "eve.json")), EXPECTED, feed=rotated_eve, is_live=True, ends=False),
    "zeek": SourceCase(
        lambda d: FollowedTableSource(d / "conn.log"), EXPECTED, feed=rotated_zeek, is_live=True, ends=False
    ),
    "eve from before": SourceCase(there_before, EXPECTED, is_live=True, ends=False),
    "eve-socket": SourceCase(
        lambda d: TableSocketSource(d / "eve.sock"), EXPECTED, feed=send_stream, is_live=True, ends=False
    ),
    "eve-socket dgram": SourceCase(
        lambda d: TableSocketSource(d / "eve.sock", kind="dgram"),
        EXPECTED,
        feed=send_datagrams,
        is_live=True,
        ends=False,
    ),
}
REFUSALS: dict[str, tuple[Callable[[Path], Source[Any]], str]] = {
    "no directory": (lambda d: FollowedTableSource(d / "nowhere" / "eve.json"), "nowhere"),
    "a directory": (FollowedTableSource, "not a regular file"),
    "a socket's directory": (lambda d: TableSocketSource(d / "nowhere" / "eve.sock"), "nowhere"),
    "a socket's long path": (lambda d: TableSocketSource(d / ("x" * 120)), "107 octets"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", CASES)
def test_source_keeps_the_rule(rule: Callable[[SourceCase, Path], None], name: str, tmp_path: Path) -> None:
    rule(CASES[name], tmp_path)


@pytest.mark.parametrize(("make", "mention"), REFUSALS.values(), ids=REFUSALS.keys())
def test_source_that_cannot_be_opened_says_so_in_one_sentence(
    make: Callable[[Path], Source[Any]], mention: str, tmp_path: Path
) -> None:
    check_refusal(make, tmp_path, mention)
