"""twin --private: a capture, or a table, to a twin that keeps to (epsilon, delta), and to nothing else of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nsstream_daemon.places import print_places

if TYPE_CHECKING:
    from nsstream.pipeline.private_twin import PrivateTwinConfig

NO_SCORE: Final = (
    "a score sets the twin beside the private capture: what it says is not private, so --private makes none; "
    "nsstream score does, for whoever may see the capture"
)


def interval_of(during: str | None) -> tuple[int, int]:
    """The interval that was given; raises InputError where none was."""
    from nsstream.errors import InputError
    from nsstream.pipeline.plan import parse_interval_ns

    if during is None:
        raise InputError(
            "--private needs --during START/END (UTC), what of the capture is learned and the twin is of: "
            "it is public, so it is given, and not read from the capture"
        )
    return parse_interval_ns(during)


def run_private_twin(config: PrivateTwinConfig) -> None:
    """Make the twin, and say where everything is."""
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.pipeline.outputs import beside
    from nsstream.pipeline.private_twin import make_private_twin
    from nsstream.replay.pcap_sink import split_suffixes
    from nsstream.replay.promise_file import in_plain_words, in_words, promise_place
    from nsstream_daemon.progress_view import ProgressView
    from nsstream_daemon.twin_commands import SCORE_SUFFIX

    split_suffixes(config.output)
    with ProgressView(Console(stderr=True)) as view:
        made = make_private_twin(config, view, SystemClock())
    if config.replaces:
        beside(config.output, SCORE_SUFFIX).unlink(missing_ok=True)  # it told of the twin that was replaced
    print_places(
        Console(),
        {
            "twin": f"{made.output}  ({made.packet_count:,} packets)",
            "private": in_words(made.promise),
            "means": f"{in_plain_words(made.promise)} Another run on the same capture costs as much again.",
            "promise": str(promise_place(made.output)),
            "verify": "; ".join(made.verification.complaints()) or "every frame is lawful",
            "report": f"none: {NO_SCORE}",
            "config": str(made.config),
            "model": f"{made.model}  (keeps the same promise)",
            "state": f"{made.state}  (outside of the promise, and secret: the capture's packets, the address key)",
        },
    )


def run_private_flow_twin(config: PrivateTwinConfig) -> None:
    """Make the twin of a table of flows, and say where everything is."""
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.pipeline.private_flow_twin import make_private_flow_twin
    from nsstream.replay.promise_file import in_words, promise_place
    from nsstream_daemon.progress_view import ProgressView

    with ProgressView(Console(stderr=True)) as view:
        made = make_private_flow_twin(config, view, SystemClock())
    print_places(
        Console(),
        {
            "twin": f"{made.output}  ({made.record_count:,} flows)",
            "private": f"{in_words(made.promise)}; another run on the same table costs as much again",
            "promise": str(promise_place(made.output)),
            "verify": "every line is a lawful flow",
            "report": "none: nsstream score reads captures only",
            "config": str(made.config),
            "model": f"{made.model}  (keeps the same promise)",
            "state": f"{made.state}  (outside of the promise, and secret: the table's flows, the address key)",
        },
    )
