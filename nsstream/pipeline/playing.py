"""Checkpoints become a capture file: a replay server, commanded over its protocol as anybody's would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nsstream.pipeline.progress import Progress, Stage
from nsstream.replay import Status, spawn_server
from nsstream.replay.process import COMMAND as SERVER

__all__ = ["SERVER", "play"]


def play(
    checkpoints: Sequence[Path],
    output: Path,
    *,
    seed: int,
    mtu: int,
    report: Callable[[Progress], None],
    elapsed_s: Callable[[], float],
    scenario: Mapping[str, Any] | None = None,
    command: Sequence[str] = SERVER,
) -> int:
    """Play the checkpoints, in order, into a capture file that does not exist yet; gives its packets.

    `scenario` has fields of `replay.scenario.Scenario`: which traffic, how much.

    Raises ReplayError if the server refuses, fails or does not answer; it has ended when this returns.
    """

    def on_status(status: Status) -> None:
        report(
            Progress(
                Stage.REPLAY,
                elapsed_s(),
                chunk=status.chunk or None,
                chunk_count=status.chunk_count,
                packet_count=status.packets_written,
                is_done=status.state == "done",
            )
        )

    report(Progress(Stage.REPLAY, elapsed_s(), chunk_count=len(checkpoints), packet_count=0))
    with spawn_server(command=command) as client:
        client.start(
            [path.absolute() for path in checkpoints],
            sink={"kind": "pcap", "path": output.absolute()},
            seed=seed,
            mtu=mtu,
            scenario=None if scenario is None else dict(scenario),
        )
        return client.wait(on_status).packets_written
