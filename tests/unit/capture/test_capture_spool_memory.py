"""SpoolMemory through SpoolSource: what one hands over, the next goes on from, to the row; what it does not believe."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spooled import capture_of, numbers, of, put, read_idle, rest

from nsstream.capture import spool_memory
from nsstream.capture.metered import MeteredSource
from nsstream.capture.spool import SpoolSource
from nsstream.capture.spool_file import SpoolFile
from nsstream.capture.spool_ledger import Entry
from nsstream.capture.spool_memory import KEPT_WHEN_GONE_NS, MOST_GONE, SpoolMemory
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.trace.metering import FlowMeter


def heir_of(handover: object, spool: Path) -> SpoolSource:
    """The next source on the spool, opened, which ends when all is read."""
    source = SpoolSource(spool, follow=False, buffer_bytes=4096)
    source.take_over(json.loads(json.dumps(handover)))
    source.open()
    return source


def rest_by_heir(handover: object, spool: Path) -> list[int]:
    heir = heir_of(handover, spool)
    came = rest(heir)
    heir.close()
    return came


def read_once(spool: Path) -> dict[str, Any]:
    """What a source hands over that has read all that is there."""
    source = SpoolSource(spool, follow=False)
    source.open()
    rest(source)
    source.close()
    handover = source.handover()
    assert handover is not None
    return handover


def test_heir_goes_on_behind_the_last_row_wherever_its_predecessor_was_killed(spool: Path) -> None:
    put(spool / "a.pcap", capture_of(0, 500), 1000)
    put(spool / "b.txt", b"no capture", 1001)
    put(spool / "c.pcap", capture_of(50, 500)[:-1], 1002)
    put(spool / "d.pcap", capture_of(100, 10), 1003)
    killed = SpoolSource(spool, follow=False, buffer_bytes=4096)
    killed.open()
    told = killed.handover()
    before, got = Tally(), list[int]()
    is_last = False
    while not is_last:
        heir = heir_of(told, spool)
        came = rest(heir)
        assert got + came == [*range(999), *of(100)]
        total = copy.deepcopy(before)
        total.add(heir.tally)
        assert (total.offered, total.malformed) == (1011, {"refused_file": 1, "cut_record": 1})
        heir.close()
        batch = killed.read_batch()
        is_last = batch is None
        got += [] if batch is None else numbers([batch])
        told, before = killed.handover(), copy.deepcopy(killed.tally)
    killed.close()


def test_handover_is_the_same_while_nothing_is_new_and_never_changes(spool: Path) -> None:
    put(spool / "a.pcap", capture_of(0, 500), 1000)
    source = SpoolSource(spool, buffer_bytes=4096)
    source.open()
    told = []
    while source.tally.kept < 500:
        source.read_batch()
        handover = source.handover()
        assert source.handover() is handover
        told.append((handover, json.dumps(handover)))
    assert len({text for _, text in told}) == len(told) > 5
    assert all(json.dumps(handover) == text for handover, text in told)
    read_idle(source)
    last = source.handover()
    read_idle(source)
    assert source.handover() is last
    source.close()
    assert source.handover() is last


def test_heir_reads_of_a_file_that_grew_what_is_new_and_one_that_was_replaced(spool: Path) -> None:
    put(spool / "grows.pcap", capture_of(0, 10), 1000)
    put(spool / "ring.pcap", capture_of(5), 1001)
    put(spool / "packed.pcap", capture_of(6), 1002)
    told = read_once(spool)
    assert rest_by_heir(told, spool) == []
    put(spool / "grows.pcap", capture_of(0, 25), 1010)
    put(spool / "ring.pcap", capture_of(9), 1011)
    put(spool / "packed.pcap.gz", gzip.compress(capture_of(6)))
    shutil.copystat(spool / "packed.pcap", spool / "packed.pcap.gz")
    (spool / "packed.pcap").unlink()
    (spool / "moved").mkdir()
    heir = heir_of(told, spool)
    assert rest(heir) == [*range(10, 25), *of(9)]
    assert heir.tally.offered == 25
    heir.close()
    (spool / "ring.pcap").rename(spool / "another.pcap")
    assert rest_by_heir(heir.handover(), spool) == []


def entry(number: int, name: str) -> Entry:
    return Entry(name, SpoolFile(1, number, 100, 5), 4, "0" * 32, is_done=True, tally=Tally(offered=3, kept=3))


def known_by(memory: SpoolMemory) -> list[int]:
    return sorted(int(key[2:]) for part in memory.handover()["files"] for key in part)


def test_files_that_went_are_forgotten_in_time_or_where_they_are_many() -> None:
    memory = SpoolMemory()
    memory.put(entry(0, "stays"), 0)
    for number in range(1, 4):
        memory.put(entry(number, f"{number}.pcap"), 0)
    memory.forget_gone({(1, 0), (1, 1), (1, 2)}, 10)
    memory.forget_gone({(1, 0), (1, 2)}, 20)
    memory.forget_gone({(1, 0), (1, 1)}, 30)  # 1 came back
    assert known_by(memory) == [0, 1, 2, 3]
    memory.forget_gone({(1, 0)}, 10 + KEPT_WHEN_GONE_NS)
    assert known_by(memory) == [0, 1, 2]
    assert memory.find_name("3.pcap") is None
    memory.forget_gone({(1, 0)}, 10 + 2 * KEPT_WHEN_GONE_NS)
    assert known_by(memory) == [0]
    size = 0
    for turn in range(4):  # a ring whose files have ever other inodes
        numbers_of = range(1 + turn * MOST_GONE, 1 + (turn + 1) * MOST_GONE)
        for number in numbers_of:
            memory.put(entry(number, f"{number:06}.pcap"), 0)
        memory.forget_gone({(1, 0), *((1, number) for number in numbers_of)}, 0)
        assert len(known_by(memory)) <= 1 + 2 * MOST_GONE
        size = max(size, len(json.dumps(memory.handover())))
    assert size < 200 * 2 * MOST_GONE
    memory.forget_gone({(1, 0)}, 1)
    assert len(known_by(memory)) == 1 + MOST_GONE


def test_a_name_is_that_of_the_file_that_had_it_last() -> None:
    memory = SpoolMemory()
    memory.put(entry(1, "ring"), 0)
    memory.put(entry(65, "ring"), 0)  # of the same part
    memory.put(entry(2, "ring"), 0)
    named = memory.find_name("ring")
    assert named is not None
    assert named.file.inode == 2
    heir = SpoolMemory()
    heir.take_over(json.loads(json.dumps(memory.handover())))
    assert heir.find_name("ring") == named
    assert known_by(heir) == [1, 2, 65]
    memory.put(entry(2, "renamed"), 0)
    assert memory.find_name("ring") is None


def test_more_files_than_can_be_kept_in_mind_are_refused(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_memory, "MOST_OCTETS", 400)
    for number in range(5):
        put(spool / f"{number}.pcap", capture_of(number), 1000 + number)
    source = SpoolSource(spool, follow=False)
    source.open()
    got: list[int] = []
    refused = ""
    while not refused:
        try:
            got += numbers([source.read_batch() or PacketBatch.empty()])
        except InputError as err:
            refused = str(err)
    assert "too many to remember" in refused
    source.close()
    assert got == of(*range(len(got) // 10))
    monkeypatch.undo()
    assert got + rest_by_heir(source.handover(), spool) == of(*range(5))


def change(*path: object, to: object) -> Callable[[Any], None]:
    def apply(files: Any) -> None:
        for step in path[:-1]:
            files = files[step]
        files[path[-1]] = to

    return apply


STRANGE = {
    "key": change("1", to=["x", 1, 1, 0, "", True, {}]),
    "huge inode": change("1:" + "9" * 30, to=["x", 1, 1, 0, "", True, {}]),
    "no values": change("1:7", to={}),
    "too few": change("1:7", to=["x"]),
    "name twice": change("1:7", to=["a.pcap", 1, 1, 0, "", True, {}]),
    "path": change("1:7", to=["../x", 1, 1, 0, "", True, {}]),
    "long name": change("1:7", to=["x" * 256, 1, 1, 0, "", True, {}]),
    "name is a number": change("1:7", to=[1, 1, 1, 0, "", True, {}]),
    "negative size": change("1:7", to=["x", -1, 1, 0, "", True, {}]),
    "size is true": change("1:7", to=["x", True, 1, 0, "", True, {}]),
    "endless time": change("1:7", to=["x", 1, 1e400, 0, "", True, {}]),
    "huge head": change("1:7", to=["x", 1, 1, 1 << 40, "", True, {}]),
    "digest": change("1:7", to=["x", 1, 1, 4, "zz", True, {}]),
    "done": change("1:7", to=["x", 1, 1, 0, "", 1, {}]),
    "tally": change("1:7", to=["x", 1, 1, 0, "", True, []]),
    "count": change("1:7", to=["x", 1, 1, 0, "", True, {"kept": -1}]),
    "reason": change("1:7", to=["x", 1, 1, 0, "", True, {"malformed": {"bad\nline": "3"}}]),
    "strange count": change("1:7", to=["x", 1, 1, 0, "", True, {"parked": 1}]),
}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_what_is_strange_is_refused_and_nothing_of_it_known(strange: Callable[[Any], None], spool: Path) -> None:
    put(spool / "a.pcap", capture_of(1))
    told = json.loads(json.dumps(read_once(spool)))
    files = {key: values for part in told["files"] for key, values in part.items()}
    strange(files)
    source = SpoolSource(spool, follow=False)
    with pytest.raises(InputError, match="what was handed over tells of no files of a spool: ") as refused:
        source.take_over(told | {"files": [files]})
    assert "\n" not in str(refused.value)
    source.open()
    assert rest(source) == of(1)
    source.close()


def test_a_spool_with_a_ledger_hands_nothing_over(spool: Path, tmp_path: Path) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = SpoolSource(spool, tmp_path / "ledger", follow=False)
    source.open()
    assert rest(source) == of(1)
    source.close()
    assert source.handover() is None
    with pytest.raises(InputError, match="takes nothing over"):
        source.take_over(read_once(spool))


def test_packets_of_a_spool_that_are_metered_are_handed_over_too(spool: Path) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = MeteredSource(SpoolSource(spool, follow=False), FlowMeter())
    source.open()
    while source.read_batch() is not None:
        source.tally.check()
    source.close()
    heir = MeteredSource(SpoolSource(spool, follow=False), FlowMeter())
    heir.take_over(json.loads(json.dumps(source.handover())))
    heir.open()
    assert heir.read_batch() is None
    heir.close()
    assert heir.packet_tally.offered == 0
