from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_logs import eve_line, eve_stats, numbers_of, zeek_header, zeek_line
from rotated_log import RotatedLog

from nsstream.capture.followed_table import FollowedTableSource, eve_source
from nsstream.capture.line_blocks import MAX_LINE_BYTES
from nsstream.errors import InputError


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RotatedLog]:
    made = RotatedLog(tmp_path / "eve.json")
    yield made
    made.close()


def read_all(source: FollowedTableSource) -> list[int]:
    """The flows until nothing comes."""
    numbers: list[int] = []
    while (flows := source.read_batch()) is not None and len(flows):
        source.tally.check()
        numbers += numbers_of(flows.source_address)
    return numbers


@contextlib.contextmanager
def opened(source: FollowedTableSource, handover: object = None) -> Iterator[FollowedTableSource]:
    if handover is not None:
        source.take_over(handover)
    source.open()
    with contextlib.closing(source):
        yield source


def test_hostile_lines_are_counted_and_take_no_flow_with_them(log: RotatedLog) -> None:
    junk = [
        b"\n",
        b"\r\n",
        b"\0" * 500 + b"\n",
        b"x" * (MAX_LINE_BYTES + 1) + b"\n",
        b"\xff\xfe\n",
        b"[" * 30_000 + b"\n",
    ]
    junk += [b'"flow"\n', b"x" * (3 << 20) + b"\n", b'{"event_type":"flow","flow":{"start":{}}}\n']
    with opened(eve_source(str(log.path))) as source:
        numbers = []
        for number, octets in enumerate(junk):
            log.write(octets[: len(octets) // 2])
            numbers += read_all(source)
            log.write(octets[len(octets) // 2 :] + eve_line(number))
            numbers += read_all(source)
        assert numbers == list(range(len(junk)))
        assert source.tally.malformed == {"long_line": 2, "bad_json": 4, "bad_protocol": 1}


def test_any_octets_at_all_are_read_in_bounded_time(log: RotatedLog) -> None:
    chance = random.Random(3)
    log.write(b"".join(chance.randbytes(chance.randrange(3000)) + b"\n" for _ in range(300)) + eve_line(7))
    with opened(eve_source(str(log.path))) as source:
        assert read_all(source) == [7]


def test_half_a_line_waits_and_is_cut_when_its_file_was_left(log: RotatedLog) -> None:
    with opened(eve_source(str(log.path))) as source:
        log.write(eve_line(0) + eve_line(1)[:-5])
        assert read_all(source) == [0]
        log.rename()
        assert read_all(source) == []
        assert source.tally.offered == 1  # the writer may come back to it as long as the new file is empty
        log.write(eve_line(2))
        assert read_all(source) == [2]
        assert source.tally.malformed == {"cut_record": 1}


def test_what_is_written_late_to_a_renamed_file_comes_too(log: RotatedLog) -> None:
    with opened(eve_source(str(log.path))) as source:
        log.write(eve_line(0))
        assert read_all(source) == [0]
        rotated = log.rename()
        with rotated.open("ab") as late:
            late.write(eve_line(1))
        log.write(eve_line(2))
        assert read_all(source) == [1, 2]


def test_file_that_is_gone_is_counted_and_the_next_one_read(log: RotatedLog) -> None:
    with opened(eve_source(str(log.path))) as source:
        log.write(eve_line(0))
        assert read_all(source) == [0]
    log.write(eve_line(1))
    log.rename().unlink()
    log.write(eve_line(2))
    with opened(eve_source(str(log.path)), source.handover()) as heir:
        assert read_all(heir) == [2]
        assert heir.tally.dropped == {"disk": 1}


def test_compressed_copies_are_not_read(log: RotatedLog) -> None:
    with opened(eve_source(str(log.path))) as source:
        log.write(eve_line(0))
        assert read_all(source) == [0]
        log.path.with_name("eve.json.2.gz").write_bytes(eve_line(8))
        log.path.with_name("eve.json.lock").mkdir()
        os.mkfifo(log.path.with_name("eve.json.pipe"))
        log.rename()
        log.write(eve_line(1))
        assert read_all(source) == [1]


def test_from_end_leaves_out_what_is_there_but_for_the_half_line(log: RotatedLog) -> None:
    log.write(b"".join(map(eve_line, range(5000))) + eve_line(6000)[:30])
    with opened(FollowedTableSource(log.path, from_end=True)) as source:  # finds the preset at the beginning
        assert read_all(source) == []
        log.write(eve_line(6000)[30:])
        assert read_all(source) == [6000]
        assert source.tally.offered == 1


def test_zeek_columns_may_change_and_lines_without_any_are_counted(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "conn.log")
    with contextlib.closing(log), opened(FollowedTableSource(log.path)) as source:
        header = zeek_header()
        log.write(header[:30])
        assert read_all(source) == []
        log.write(header[30:] + zeek_line(0))
        assert read_all(source) == [0]
        extended = header.replace(b"\tuid", b"\tuid\tvlan").replace(b"\tstring", b"\tstring\tint", 1)
        log.write(extended + zeek_line(1).replace(b"\tC1\t", b"\tC1\t42\t") + header + zeek_line(2))
        assert read_all(source) == [1, 2]
        log.rename()
        log.write(zeek_line(3))  # which, the first of its file, could be anything
        assert read_all(source) == []
        log.write(header + zeek_line(4))
        assert read_all(source) == [4]
        assert source.tally.malformed == {"no_header": 1}


def test_log_may_turn_from_one_layout_to_the_other(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "conn.log")
    row = (
        b'{"ts":1767225600.001,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"198.51.100.2","id.resp_p":53,'
        b'"proto":"udp","orig_pkts":1,"orig_ip_bytes":100}\n'
    )
    with contextlib.closing(log), opened(FollowedTableSource(log.path)) as source:
        log.write(zeek_header() + zeek_line(0))
        assert read_all(source) == [0]
        log.rename()
        log.write(row)
        assert read_all(source) == [1]
        log.rename()
        log.write(zeek_header() + zeek_line(2))
        assert read_all(source) == [2]
        assert not source.tally.malformed


def test_first_file_that_is_no_table_is_refused(log: RotatedLog) -> None:
    log.write(b"Jan  1 00:00:00 host kernel: hello\n")
    with opened(FollowedTableSource(log.path)) as source, pytest.raises(InputError, match=r"eve\.json: no preset has"):
        source.read_batch()


def test_heir_reads_the_header_of_the_file_that_it_goes_on_in(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "conn.log")
    with contextlib.closing(log):
        log.write(zeek_header() + zeek_line(0))
        with opened(FollowedTableSource(log.path)) as source:
            assert read_all(source) == [0]
        log.write(zeek_line(1))
        with opened(FollowedTableSource(log.path), source.handover()) as heir:
            assert read_all(heir) == [1]
            assert (heir.tally.offered, heir.tally.kept) == (1, 1)


def test_heir_goes_on_inside_a_line_that_is_too_long(log: RotatedLog) -> None:
    log.write(b"x" * (MAX_LINE_BYTES * 2))
    with opened(eve_source(str(log.path))) as source:
        assert read_all(source) == []
        assert source.tally.malformed == {"long_line": 1}
    log.write(b"x" * 10 + b"\n" + eve_line(1))
    with opened(eve_source(str(log.path)), source.handover()) as heir:
        assert read_all(heir) == [1]
        assert heir.tally.offered == 1


GOOD: dict[str, Any] = {
    "format": "nsstream-followed-file",
    "version": 1,
    "head": [3, "0" * 32],
    "offset": 3,
    "changed_ns": 5,
    "is_inside_long_line": False,
    "finished": [],
}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"head": [3]},
        {"head": [2000, "0" * 32]},
        {"head": [True, "0" * 32]},
        {"offset": -1},
        {"offset": 1.5},
        {"offset": True},
        {"changed_ns": 1 << 63},
        {"is_inside_long_line": 1},
        {"finished": None},
        {"finished": [[0, "0" * 32]] * 65},
        {"finished": ["head"]},
    ],
)
def test_strange_position_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    source = FollowedTableSource(tmp_path / "eve.json")
    source.take_over(GOOD)
    with pytest.raises(InputError):
        source.take_over(GOOD | change)


def test_events_that_are_no_flows_do_not_hide_the_preset(log: RotatedLog) -> None:
    log.write(eve_stats() * 3 + eve_line(0))
    with opened(FollowedTableSource(log.path)) as source:
        assert read_all(source) == [0]
        log.rename()
        log.write(eve_stats())
        assert read_all(source) == []
        log.write(eve_line(1))
        assert read_all(source) == [1]
        assert source.tally.unsupported == {"other_record": 4}
        assert not source.tally.malformed


def test_mapping_of_a_file_reads_a_log_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(
        'name = "ours"\nlayout = "json"\nprotocol = "p"\npackets = "n"\nonly = {column = "kind", texts = ["flow"]}\n'
        'start = {column = "at", unit = "ms"}\nsource_address = {column = "from.ip"}\n'
        'destination_address = {column = "to.ip"}\n'
    )
    log = RotatedLog(tmp_path / "ours.log")
    with contextlib.closing(log), opened(FollowedTableSource(log.path, mapping=str(tmp_path / "ours.toml"))) as source:
        log.write(b'{"kind":"boot"}\n')
        log.write(
            b'{"kind":"flow","p":"udp","n":2,"at":1767225600123,"from":{"ip":"10.0.0.7"},"to":{"ip":"10.0.0.8"}}\n'
        )
        assert read_all(source) == [7]
        assert source.tally.unsupported == {"other_record": 1}
