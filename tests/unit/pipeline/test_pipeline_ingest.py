import struct
from pathlib import Path

import pytest

from nsstream.chunk import ChunkStore
from nsstream.errors import InputError
from nsstream.pipeline import ingest
from nsstream.pipeline.ingest import (
    count_conversations,
    import_interval,
    import_trace,
    make_lessons,
    merge_chunks,
    survey_trace,
)

S = 10**9
DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")


def write_pcap(path: Path, times_s: list[float], *, ports: list[int] | None = None) -> Path:
    """A raw-IP capture of one UDP datagram at each time."""
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for at, time_s in enumerate(times_s):
        port = ports[at] if ports else 53
        datagram = DATAGRAM[:20] + struct.pack(">H", port) + DATAGRAM[22:]
        whole_s = int(time_s)
        records.append(struct.pack("<IIII", whole_s, round((time_s - whole_s) * 1e6), len(datagram), len(datagram)))
        records.append(datagram)
    path.write_bytes(b"".join(records))
    return path


def test_a_survey_counts_packets_by_ten_seconds(tmp_path: Path):
    survey = survey_trace(write_pcap(tmp_path / "x.pcap", [0, 9.5, 10, 1_000]))
    assert survey.packet_count == 4
    assert survey.packets_by_bin == {0: 2, 1: 1, 100: 1}
    assert survey.disorder_ns == 0


def test_no_packet_is_late_however_a_trace_was_merged(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [500, 501, 3, 4_000_000_000, 2, 502])
    survey = survey_trace(trace)
    assert survey.disorder_ns == (4_000_000_000 - 2) * 1_000_000_000
    store = ChunkStore(tmp_path / "chunks")
    infos = import_trace(trace, store, length_s=10, disorder_ns=survey.disorder_ns)
    assert [info.packet_count for info in infos] == [2, 3, 1]
    assert sum(info.tally.late for info in infos) == 0


def test_lessons_are_the_chunks_or_several_small_ones_as_one(tmp_path: Path):
    times_s = [float(at) for at in range(30)]
    trace = write_pcap(tmp_path / "x.pcap", times_s, ports=[1000 + at for at in range(30)])
    store, merged = ChunkStore(tmp_path / "chunks"), ChunkStore(tmp_path / "merged")
    infos = import_trace(trace, store, length_s=10, disorder_ns=0)
    assert len(infos) == 3
    alone = make_lessons(infos, store, merged, fewest_conversations=10)
    assert [lesson.path for lesson in alone] == [info.path for info in infos]
    (lesson,) = make_lessons(infos, store, merged, fewest_conversations=25)
    assert lesson.path.parent == merged.directory
    assert (lesson.packet_count, lesson.conversation_count) == (30, 30)
    assert merged.read(lesson.path).packets.observation_time_ns.tolist() == [int(t) * 10**9 for t in times_s]


def test_a_folder_is_no_trace(tmp_path: Path):
    with pytest.raises(InputError, match="is not a regular file"):
        survey_trace(tmp_path)


def test_a_trace_without_packets_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="holds no IP packet to learn from: it has no frames"):
        survey_trace(write_pcap(tmp_path / "x.pcap", []))


def test_parts_of_one_interval_are_merged_in_time_order_with_all_their_counts(tmp_path: Path):
    chunks = []
    for part, times in enumerate(([1, 5, 9], [4, 6])):
        trace = write_pcap(tmp_path / f"{part}.pcap", times)
        store = ChunkStore(tmp_path / f"{part}")
        chunks += [store.read(info.id) for info in import_trace(trace, store, length_s=10, disorder_ns=0)]
    merged = merge_chunks(chunks)
    assert (merged.packets.observation_time_ns // 10**9).tolist() == [1, 4, 5, 6, 9]
    assert (merged.start_ns, merged.end_ns) == (0, 10 * 10**9)
    assert merged.tally.kept == merged.tally.offered == 5
    assert count_conversations(merged) == 1


def test_an_interval_that_is_given_is_one_chunk_of_what_falls_into_it(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [500, 501, 3, 119.9, 4_000_000_000, 2, 60, 120])
    store = ChunkStore(tmp_path / "chunks")
    path = import_interval(trace, store, (2 * S, 120 * S))
    chunk = store.read(path)
    assert (chunk.start_ns, chunk.end_ns) == (2 * S, 120 * S)
    assert chunk.packets.observation_time_ns.tolist() == [2 * S, 3 * S, 60 * S, 119_900_000_000]
    assert chunk.tally.as_dict()["offered"] == 4  # of the rest nothing is told


def test_an_interval_without_packets_or_with_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace, store = write_pcap(tmp_path / "x.pcap", [1, 2, 3]), ChunkStore(tmp_path / "chunks")
    with pytest.raises(InputError, match="holds no IP packet of that time"):
        import_interval(trace, store, (4 * S, 5 * S))
    monkeypatch.setattr(ingest, "MOST_HELD", 2)
    with pytest.raises(InputError, match="give a shorter one"):
        import_interval(trace, store, (0, 5 * S))
    assert store.list() == []
