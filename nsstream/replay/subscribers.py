"""SubscribersSink: frames to whoever subscribed to packets at the replay server, in batches.

Promises: a batch goes out as soon as its last frame is due, and none waits for more to come; what is published is
`frames_written`, whether or not a subscriber keeps up, which `PacketFeed` counts for each. With ``when_behind`` "skip"
nobody waits for a subscriber; with "wait" the run waits for the slowest, until it is silent for the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from nsstream.errors import OutputError
from nsstream.replay.batch import MAX_BATCH_PACKETS
from nsstream.replay.feed import RING_BYTES
from nsstream.replay.messages import MAX_SUBSCRIBERS
from nsstream.replay.sink import POLL_INTERVAL_S, SinkContext, SinkSpec

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

MAX_BATCH_BYTES: Final = RING_BYTES >> 6  # so that the ring has room for many, and a window for some


class SubscribersSpec(SinkSpec):
    """The subscribers of this server."""

    kind: Literal["subscribers"] = "subscribers"
    batch_packets: Annotated[int, Field(ge=1, le=MAX_BATCH_PACKETS)] = 4096  # at most
    wait_for: Annotated[int, Field(ge=0, le=MAX_SUBSCRIBERS)] = 0  # subscribers, before the first frame
    when_behind: Literal["skip", "wait"] = "skip"


class SubscribersSink:
    """The packet plane as a sink; the server's feed is in the context."""

    spec_type = SubscribersSpec

    def __init__(self, spec: SubscribersSpec, context: SinkContext) -> None:
        self._spec = spec
        self._is_stopped = context.is_stopped
        self._feed = context.feed
        self._origin = context.origin
        self._has_begun = False
        self._frame_count = 0
        self._written_count = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the frames given."""
        failed = self._frame_count - self._written_count
        return {"frames": self._frame_count, "frames_written": self._written_count, "frames_failed": failed}

    def check(self) -> None:
        """Raise OutputError where there is no server that could have subscribers."""
        if self._feed is None:
            raise OutputError("subscribers: only a replay server has them, and this run has none")

    def open(self) -> None:
        """Wait for as many subscribers as were asked for."""
        self.check()
        assert self._feed is not None
        while not self._feed.wait_for_subscribers(self._spec.wait_for, POLL_INTERVAL_S):
            if self._is_stopped():
                raise OutputError(f"subscribers: stopped before {self._spec.wait_for} of them came")
        self._has_begun = True

    def write(self, frames: Frames) -> None:
        """Publish frames; they are copied."""
        if not self._has_begun or self._feed is None:
            raise ValueError("a sink is written to between open and close")
        self._frame_count += len(frames)
        chunk, model_id = self._origin()
        at = 0
        while at < len(frames):
            count = self._fit(frames, at)
            if self._spec.when_behind == "wait":
                while not self._feed.wait_for_room(POLL_INTERVAL_S):
                    if self._is_stopped():
                        raise OutputError("subscribers: stopped while one of them was slow")
            self._feed.publish(frames.slice(at, at + count), chunk, model_id)
            self._written_count += count
            at += count

    def close(self) -> None:
        """Say that the run is done; what subscribers have not fetched yet stays there for them."""
        self._end("done")

    def abort(self) -> None:
        """Say that the run was stopped or failed; what subscribers have not fetched yet is gone."""
        self._end("stopped" if self._is_stopped() else "failed")

    def _end(self, outcome: Literal["done", "failed", "stopped"]) -> None:
        if self._has_begun and self._feed is not None:
            self._has_begun = False
            self._feed.end(outcome)

    def _fit(self, frames: Frames, at: int) -> int:
        """How many frames make the next batch: as many as may, but no more octets, and at least one."""
        last = min(at + self._spec.batch_packets, len(frames))
        limit = frames.offset[at] + MAX_BATCH_BYTES
        return max(int(frames.offset[at : last + 1].searchsorted(limit, side="right")) - 1, 1)
