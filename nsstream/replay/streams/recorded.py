"""RecordedFile: a capture file, ours or another's, played pass after pass without ever being loaded whole.

Promises: the first pass is what was captured, octet by octet, but for what could not be sent so: what a snaplen cut is
filled with zeros and its checksum made right, and other link layers become Ethernet. Later passes are of new flows
(`renewal`). Times go on from pass to pass, a mean gap between. Frames are held for one buffer of the file. What is left
out is counted by name: frames above the MTU, cut before their headers end, or of a link layer other than Ethernet
around what is not IP.
"""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble import Frames
from nsstream.capture.pcap_file import PcapFileSource
from nsstream.errors import InputError
from nsstream.replay.scenario import Scenario
from nsstream.replay.stream import FrameBlock, cut_points, make_rise
from nsstream.replay.streams.captured import Survey, survey
from nsstream.replay.streams.flow_memory import begin_pass, new_memory
from nsstream.replay.streams.recorded_sides import find_sides
from nsstream.replay.streams.refit import keep_mask, refit, thinned
from nsstream.replay.streams.selection import Selection
from nsstream.replay.streams.timeline import Timeline
from nsstream.trace.fragments import FragmentTable
from nsstream.wire.dissect import Columns
from nsstream.wire.frame_stream import FrameReader

READ_BYTES: Final = 1 << 20
_LONE_GAP_NS: Final = 1_000_000_000  # behind a pass of one frame
_MOST_NAME: Final = 100


class RecordedFile:
    """The frames of a file.

    Args:
        path: of the file; it is read anew for each pass.
        scenario: what is made of them; neither more flows nor an attack.
        seed: of thinning, and of new sequence numbers.
        mtu: octets of the longest IP datagram.
        passes: how often, None: without end.

    Raises InputError if the file cannot be read, or holds no frame.
    """

    def __init__(self, path: Path, scenario: Scenario, seed: int, mtu: int, passes: int | None) -> None:
        self._path = path
        self._scenario = scenario
        self._selection = Selection.of(scenario)
        self._key = np.uint64(np.random.default_rng([seed, 4]).integers(1 << 63))
        self._memory = new_memory()
        self._fragments = FragmentTable.empty()
        self._mtu = mtu
        self._passes = passes
        self._tally: Counter[str] = Counter()
        self._ready: deque[FrameBlock] = deque()
        self._source = PcapFileSource(path, allow_cut=True, buffer_bytes=READ_BYTES, make_reader=FrameReader)
        self._is_again_possible = path.is_file()
        if passes != 1:
            self.check_loop()
        self._columns: Columns | None
        first, self._columns = self._open()
        start_ns = first if scenario.start_ns is None else scenario.start_ns
        self._timeline = Timeline(first, start_ns, scenario.time_compression)
        self._pass = 0
        self._period_ns: int | None = None  # known once a pass was read to its end
        self._span = (first, first)
        self._read_count = self._wanted_count = 0  # of this pass
        self._last_ns: int | None = None
        self._from_ns: int | None = None
        self._has_ended = False

    def read(self) -> FrameBlock | None:
        """The next block, None after the last pass; raises InputError if the file is corrupt."""
        while not self._ready:
            if self._has_ended:
                return None
            columns, self._columns = self._columns, None
            if columns is None:
                columns = self._source.read_columns()
            if columns is None:
                self._end_pass()
            else:
                self._give(columns)
        return self._ready.popleft()

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the time is before the first frame, or the file can be read only once."""
        if twin_time_ns < self._timeline.start_ns:
            raise InputError("seek: the time lies before the first frame of the recording")
        if not self._is_again_possible:
            raise InputError(f"seek: {self._path} is no regular file, and can be read only once")

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time: the file is read again up to there."""
        self.check_seek(twin_time_ns)
        self._ready.clear()
        self._memory = new_memory()
        self._last_ns, self._from_ns, self._has_ended = None, twin_time_ns, False
        self._begin_pass(self._pass_of(twin_time_ns) if self._period_ns is not None else 0)

    def check_loop(self) -> None:
        """Raise InputError if the file can be read only once."""
        if not self._is_again_possible:
            raise InputError(f"{self._path}: is no regular file, and can be played only once: loop must be 1")

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all."""
        self.check_loop()
        self._passes = passes
        if self._has_ended and (passes is None or self._pass < passes):  # `_pass` is the one that was not begun
            self._has_ended = False
            self._begin_pass(self._pass)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _open(self) -> tuple[int, Columns]:
        """The time of the first frame, and the columns of the first buffer."""
        try:
            self._source.open()
            columns = self._source.read_columns()
            if columns is None:
                raise InputError(f"{self._path}: holds no packet")
        except BaseException:
            self._source.close()
            raise
        return int(columns["observation_time_ns"].min()), columns

    def _pass_of(self, twin_time_ns: int) -> int:
        assert self._period_ns is not None
        return (self._timeline.model_ns(twin_time_ns) - self._timeline.origin_ns) // self._period_ns

    def _begin_pass(self, number: int) -> None:
        self._pass = number
        self._read_count = self._wanted_count = 0
        self._columns = None
        if self._passes is not None and number >= self._passes:
            self._has_ended = True
            return
        begin_pass(self._memory)
        self._source.open()

    def _end_pass(self) -> None:
        low, high = self._span
        gap_ns = max((high - low) // (self._read_count - 1), 1) if self._read_count > 1 else _LONE_GAP_NS
        self._period_ns = high - low + gap_ns
        for reasons in (self._source.tally.malformed, self._source.tally.unsupported):
            self._tally.update({f"recorded_{reason}": count for reason, count in reasons.items()})
        if self._wanted_count == 0:
            raise InputError(f"{self._path}: nothing of it can be sent in this scenario ({_told(self._tally)})")
        following = self._pass + 1
        if self._from_ns is not None:
            following = max(following, self._pass_of(self._from_ns))
        self._begin_pass(following)

    def _give(self, columns: Columns) -> None:
        """Put the frames of one buffer where `read` takes them."""
        times = columns["observation_time_ns"].astype(np.int64)
        if self._period_ns is None:
            self._span = min(self._span[0], int(times.min())), max(self._span[1], int(times.max()))
        self._read_count += len(times)
        self._tally["recorded_frames"] += len(times)
        octets = columns["octets"].astype(np.uint8, copy=False)
        lengths = columns["captured_length"].astype(np.int64)
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        link_type = columns["link_type"].astype(np.int64)
        found = survey(octets, offset, link_type)
        side = find_sides(octets, offset, times, found, self._fragments)
        original = columns["original_length"].astype(np.int64)
        kept = keep_mask(found, offset, original, link_type, self._mtu, self._tally)
        kept &= self._wanted(found, kept)
        rows = np.flatnonzero(kept)
        self._wanted_count += len(rows)
        rows = rows[np.argsort(times[rows], kind="stable")]
        twin = self._timeline.twin_times(times[rows] + self._pass * (self._period_ns or 0))
        if self._from_ns is not None:
            is_past = twin < self._from_ns
            self._tally["packets_sought_past"] += int(np.count_nonzero(is_past))
            rows, twin = rows[~is_past], twin[~is_past]
            if not len(rows):
                return
            self._from_ns = None
        if not len(rows):
            return
        risen, moved = make_rise(twin, self._last_ns)
        self._tally["replay_times_moved"] += moved
        self._last_ns = int(risen[-1])
        new_offset, new_octets = refit(
            octets, offset, original, link_type, found, rows, self._key, self._pass, self._memory, self._tally
        )
        self._queue(Frames(risen, new_offset, new_octets, side[rows]))

    def _queue(self, frames: Frames) -> None:
        tally = {name: count for name, count in self._tally.items() if count}
        name = "".join(c if c.isprintable() else "?" for c in self._path.name)[:_MOST_NAME]
        self._ready.extend(
            FrameBlock(self._pass + 1, name, frames.slice(first, end), tally) for first, end in cut_points(frames)
        )

    def _wanted(self, found: Survey, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which frames the scenario leaves in; counts those of `kept` that it does not."""
        if self._selection.takes_all:
            wanted = np.ones(len(kept), bool)
        else:
            wanted = self._selection.rows(
                found.protocol, [found.source_port, found.destination_port], [found.source, found.destination]
            )
            wanted &= found.network >= 0
            self._tally["packets_not_selected"] += int(np.count_nonzero(kept & ~wanted))
        if self._scenario.flows < 1:
            is_thinned = thinned(found, self._scenario.flows, self._key, self._pass)
            self._tally["packets_thinned_out"] += int(np.count_nonzero(kept & wanted & is_thinned))
            wanted &= ~is_thinned
        return wanted


def _told(tally: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in tally.most_common() if count)
