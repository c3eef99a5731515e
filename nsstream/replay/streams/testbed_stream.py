"""TestbedStream: a stream whose frames are moved into a lab of two sides, whatever made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nsstream.assemble.testbed import Testbed, TestbedSpec
from nsstream.errors import InputError
from nsstream.replay.stream import FrameBlock, OpenedStream
from nsstream.replay.streams.wrapped import WrappedStream


class TestbedStream(WrappedStream):
    """Gives the frames that the lab is to see; those left out are counted in tally and counters.

    A stream of which nothing is left ends with InputError, so that a map of the wrong prefixes does not pass unseen.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    def __init__(self, stream: OpenedStream, spec: TestbedSpec) -> None:
        super().__init__(stream)
        self._testbed = Testbed(spec)
        self._left_out: Mapping[str, int] = {}  # replaced as a whole, for any thread
        self._has_given = False

    def read(self) -> FrameBlock | None:
        """The next block of which something is left."""
        while (block := self._stream.read()) is not None:
            assert isinstance(block, FrameBlock), "a model of flows has no testbed"
            frames, kept = self._testbed.apply_rows(block.frames)
            self._left_out = dict(self._testbed.tally)
            if not len(frames):
                continue
            self._has_given = True
            is_attack = None if block.is_attack is None else block.is_attack[kept]
            return replace(block, frames=frames, is_attack=is_attack, tally={**block.tally, **self._left_out})
        if self._left_out and not self._has_given:
            told = ", ".join(f"{count} {name}" for name, count in sorted(self._left_out.items()))
            raise InputError(f"testbed: nothing of the stream is in its prefixes ({told})")
        return None

    def counters(self) -> Mapping[str, int]:
        """Those of the stream, and what was left out."""
        return {**self._stream.counters(), **self._left_out}
