"""IngestPlan: from two sections of a configuration to a source, and the intake that takes what it gives.

`nsstream ingest` makes the sections from its options. A plan may be used again and again: each source and each intake
that it makes is a new one, as after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.capture import MeteredSource, open_source
from nsstream.capture.source import UNORDERED_S, HandsOver, lateness_s_of
from nsstream.chunk import Chunk, ChunkLimits
from nsstream.chunk.retention import Retention
from nsstream.clock import Clock
from nsstream.errors import InputError
from nsstream.pipeline.channel import WhenFull
from nsstream.pipeline.ingest_loop import AnySource, IngestLoop, IngestStatus
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.pipeline.service_config import ChunksSection, SourceSection
from nsstream.trace.metering import FlowMeter

QUEUE_ROWS: Final = 1 << 16
LIVE_QUEUE_ROWS: Final = 1 << 18  # what the disk is too slow for is lost


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """How a source becomes chunks."""

    source: SourceSection
    chunks: ChunksSection

    @property
    def place(self) -> Path | None:
        """The file, folder or pipe that the source reads, None where it reads none."""
        text = self.source.input
        if text == "-":
            return Path("/dev/stdin")
        for name in (text, text.partition(":")[2]):
            if name and Path(name).exists() and not Path(name).is_socket():
                return Path(name)
        return None

    @property
    def follows(self) -> bool:
        """Whether the source follows a file that grows and is rotated: so it does where it says how far it is in it."""
        if self.place is None or not self.place.is_file():
            return False
        try:
            return isinstance(open_source(self.source.input, **self.source.options), HandsOver)
        except InputError:
            return False

    @property
    def is_live(self) -> bool:
        """Whether rows come as they happen."""
        if self.source.live is not None:
            return self.source.live
        return self.place is None or self.follows

    @property
    def identity(self) -> str:
        """What makes the source the same after a restart: of a file its inode, of a folder its path, else its name.

        A file that is followed is no other one when it was rotated.
        """
        text, place = self.source.input, self.place
        if place is not None and self.follows:
            identity = text
        elif place is not None and place.is_dir():
            identity = f"{text.partition(':')[0]}:{place.resolve()}"
        elif place is None or not place.is_file():
            identity = text
        else:
            status = place.stat()
            identity = f"file {status.st_dev}:{status.st_ino}"
        if self.source.flows:  # with other timeouts, other records: there is nothing to go on from
            identity += f" metered {self.source.active_timeout_s:g} {self.source.idle_timeout_s:g}"
        return identity

    @property
    def retention(self) -> Retention:
        """Which chunks expire."""
        keep_for_s = self.chunks.keep_for_s
        return Retention(None if keep_for_s is None else round(keep_for_s * 1e9), self.chunks.keep_octets)

    def new_source(self, clock: Clock) -> AnySource:
        """The source, not open yet; raises InputError where there is none of that name."""
        opened = open_source(self.source.input, **self.source.options)
        if self.source.flows:
            meter = FlowMeter(active_timeout_s=self.source.active_timeout_s, idle_timeout_s=self.source.idle_timeout_s)
            opened = MeteredSource(opened, meter, clock=clock)
        return opened

    def new_intake(
        self,
        state: Path,
        source: AnySource,
        clock: Clock,
        on_chunk: Callable[[Chunk], None] | None = None,
        *,
        waits_for_disk: bool = False,
    ) -> Intake:
        """The way into a state directory for what the source gives; raises StateError or OutputError as `Intake`.

        `waits_for_disk`: chunks that the disk refuses wait for it, up to the rows of one; else they are dropped.
        """
        chunks = self.chunks
        waits_s = lateness_s_of(source) if chunks.lateness_s is None else chunks.lateness_s
        octets = chunks.max_memory_octets
        config = IntakeConfig(
            length_s=int(chunks.length_s),
            allowed_lateness_s=waits_s,
            allowed_future_s=None if waits_s >= UNORDERED_S else chunks.future_s,
            limits=ChunkLimits(
                chunks.max_rows,
                octets,
                max(chunks.max_rows, 3 * chunks.max_rows // 2),
                octets,
                chunks.apart_rows,
                octets // 32,
            ),
            is_live=self.is_live,
            retention=self.retention,
            closed_rows=chunks.max_rows if waits_for_disk else 0,
        )
        return Intake(state, self.identity, config, clock=clock, on_chunk=on_chunk)

    def new_loop(
        self,
        source: AnySource,
        intake: Intake,
        clock: Clock,
        listen: Callable[[IngestStatus], None] | None = None,
    ) -> IngestLoop:
        """What runs the source into the intake."""
        follows = self.follows
        is_pressed = self.is_live and not follows  # what is not taken now is gone
        rows = LIVE_QUEUE_ROWS if is_pressed else QUEUE_ROWS
        return IngestLoop(
            source,
            intake,
            when_full=WhenFull.DROP_NEWEST if is_pressed else WhenFull.BLOCK,
            capacity_rows=self.chunks.queue_rows or rows,
            clock=clock,
            skips_known=self.place is not None and self.place.is_file() and not follows,
            listen=listen,
        )
