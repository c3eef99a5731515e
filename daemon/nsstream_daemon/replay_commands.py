"""replay, send: a replay server in the foreground, and commands to one that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

if TYPE_CHECKING:
    from nsstream.replay import ReplayClient, Status

UNIT_ENDPOINT: Final = "ipc:///run/nsstream-replay/control"  # of systemd/nsstream-replay.service
_FATES: Final = ("recorded_", "testbed_", "packets_", "flows_")
_GOOD_FATES: Final = frozenset({"recorded_frames", "frames_written", "frames_metered", "flows_sent", "flows_written"})

send_app = typer.Typer(help="Command a replay server that runs.", no_args_is_help=True)

Payload = Literal["template", "zero", "random"]
Oversize = Literal["clamp", "segment"]
ServerEndpoint = Annotated[
    str, typer.Option(help="Where to listen: ipc:///absolute/path, or tcp://ADDRESS:PORT with --keys.")
]
Endpoint = Annotated[
    str,
    typer.Option(
        envvar="NSSTREAM_REPLAY_ENDPOINT",
        help="Where the server listens: ipc:///absolute/path, or tcp://HOST:PORT with --key and --server-key.",
    ),
]
Key = Annotated[
    Path | None, typer.Option(envvar="NSSTREAM_REPLAY_KEY", help="Our own NAME.key_secret, for a server on TCP.")
]
ServerKey = Annotated[
    Path | None, typer.Option(envvar="NSSTREAM_REPLAY_SERVER_KEY", help="The server's server.key, for one on TCP.")
]


def replay(
    endpoint: ServerEndpoint,
    keys: Annotated[
        Path | None, typer.Option(help="Directory that `nsstream keys server` made; who is listed in it is let in.")
    ] = None,
    secret_key: Annotated[
        str | None,
        typer.Option(
            help="The server's secret key, where it is not in --keys: a file, or credential:NAME of systemd's."
        ),
    ] = None,
    models: Annotated[
        list[Path] | None, typer.Option(help="A directory of models to offer by `send models`; may be repeated.")
    ] = None,
    send_on: Annotated[
        list[str] | None, typer.Option(help="An interface that may be sent on; may be repeated. None unless told.")
    ] = None,
    send_on_default_route: Annotated[
        list[str] | None, typer.Option(help="The same for one of a default route, which `start` has to mean as well.")
    ] = None,
    ready_fd: Annotated[
        int, typer.Option(help="Descriptor of the line that says that it is ready; 2 leaves standard output to a sink.")
    ] = 1,
    max_packets_per_second: Annotated[float | None, typer.Option(help="No run sends faster.")] = None,
    max_bits_per_second: Annotated[float | None, typer.Option(help="No run sends more bits of frames.")] = None,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="TCP port on 127.0.0.1 of /metrics, for Prometheus; 0: none.")
    ] = 0,
) -> None:
    """Run a replay server until it is told to end."""
    import logging
    import os
    from contextlib import closing

    from nsstream.replay.server import main
    from nsstream_daemon.journal import is_journal, log_handler
    from nsstream_daemon.replay_metrics import ReplayMetrics

    if is_journal(os.environ):  # elsewhere the server's own lines will do
        logging.basicConfig(level=logging.INFO, handlers=[log_handler(os.environ)])
    arguments = ["--endpoint", endpoint, f"--ready-fd={ready_fd}", *([] if keys is None else ["--keys", str(keys)])]
    arguments += [] if secret_key is None else ["--secret-key", secret_key]
    repeated = (("--models", models), ("--send-on", send_on), ("--send-on-default-route", send_on_default_route))
    for option, values in repeated:
        arguments += [f"{option}={value}" for value in values or []]
    caps = (
        ("--max-packets-per-second", max_packets_per_second),
        ("--max-bits-per-second", max_bits_per_second),
    )
    arguments += [f"{option}={value}" for option, value in caps if value is not None]
    with closing(ReplayMetrics(metrics_port)) as metrics:
        raise typer.Exit(main(arguments, on_status=metrics.hear))


@send_app.command("start")
def start(
    models: Annotated[list[Path] | None, typer.Argument(help="Models in the order of their chunks.")] = None,
    endpoint: Endpoint = UNIT_ENDPOINT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Capture file: .pcap or .pcapng, and .gz, .xz, .zst.")
    ] = None,
    sink: Annotated[
        str | None, typer.Option(help='Another sink, as JSON, such as \'{"kind": "subscribers"}\'.')
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="Another stream than models in sequence, as JSON; see docs/protocol.md.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="What is made of the stream, as JSON.")] = None,
    loop: Annotated[str, typer.Option(help="How often the stream is played: a number, or forever.")] = "1",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Fixes what is drawn.")] = 0,
    mtu: Annotated[int, typer.Option(min=576, max=65_535, help="Octets of the longest IP datagram.")] = 1500,
    payload: Annotated[Payload, typer.Option(help="What drawn packets carry.")] = "template",
    oversize: Annotated[
        Oversize, typer.Option(help="Whether drawn datagrams beyond the MTU are cut, or sent as several.")
    ] = "clamp",
    testbed: Annotated[
        str | None, typer.Option(help="A lab's sides: prefixes, VLANs and MACs, as JSON; see docs/protocol.md.")
    ] = None,
    rate: Annotated[str, typer.Option(help="max, 1.0 for real time, 2x, 20kpps, 100Mbps.")] = "max",
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run is done; Ctrl-C stops it.")] = False,
    stop_without_me: Annotated[
        float | None, typer.Option(help="With --wait: stop the run after so many seconds without this command.")
    ] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="With --wait: let no other client steer.")] = False,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Start a run."""
    from nsstream.errors import InputError
    from nsstream.replay.rate import parse_rate

    if (output is None) == (sink is None):
        raise InputError("give --output FILE or --sink JSON")
    if (not models) == (stream is None):
        raise InputError("give models, or --stream JSON")
    if not wait and (stop_without_me is not None or exclusive):
        raise InputError("--stop-without-me and --exclusive need --wait: the command is gone otherwise")
    to = (
        _json(sink, "--sink")
        if sink is not None
        else {"kind": "pcap", "path": Path(output or "").absolute(), "overwrite": force}
    )
    with connected(endpoint, key, server_key) as client:
        accepted = client.start(
            [path.absolute() for path in models or []] if stream is None else _json(stream, "--stream"),
            to,
            scenario=None if scenario is None else _json(scenario, "--scenario"),
            loop=_loop(loop),
            seed=seed,
            mtu=mtu,
            payload=payload,
            oversize=oversize,
            testbed=None if testbed is None else _json(testbed, "--testbed"),
            rate=parse_rate(rate),
            controller_timeout_s=stop_without_me,
            is_exclusive=exclusive,
        )
        print(f"run {accepted.run} is {accepted.state}", flush=True)
        if wait:
            try:
                done = client.wait()
            except KeyboardInterrupt:
                client.stop()
                raise
            print(f"run {done.run} is {done.state}: {done.packets_written:,} packets, {done.octets_written:,} octets")
            if fates := _other_fates(done):
                print(f"left out, lost or changed: {fates}", file=sys.stderr)


@send_app.command("rate")
def rate(
    rate: Annotated[str, typer.Argument(help="max, 1.0 for real time, 2x, 20kpps, 100Mbps.")],
    endpoint: Endpoint = UNIT_ENDPOINT,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Go on at another rate."""
    from nsstream.replay.rate import parse_rate

    with connected(endpoint, key, server_key) as client:
        print(client.set_rate(parse_rate(rate)).state)


@send_app.command("pause")
def pause(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """Hold the run."""
    with connected(endpoint, key, server_key) as client:
        print(client.pause().state)


@send_app.command("resume")
def resume(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """Let the run go on."""
    with connected(endpoint, key, server_key) as client:
        print(client.resume().state)


@send_app.command("seek")
def seek(
    to: Annotated[str, typer.Argument(help="Seconds from the first frame (90s), or a time: 2026-01-31T12:00:00Z.")],
    endpoint: Endpoint = UNIT_ENDPOINT,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Go on at another time of the twin."""
    from nsstream.errors import InputError

    with connected(endpoint, key, server_key) as client:
        if to.endswith("s"):
            start_ns = client.status().twin_start_ns
            if start_ns is None:
                raise InputError("no frame was written yet to count from; give a time such as 2026-01-31T12:00:00Z")
            time_ns = start_ns + int(_number(to[:-1]) * 1e9)
        else:
            time_ns = _time_ns(to)
        print(client.seek(time_ns).state)


@send_app.command("loop")
def loop(
    times: Annotated[str, typer.Argument(help="How often the stream is played in all: a number, or forever.")],
    endpoint: Endpoint = UNIT_ENDPOINT,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Change how often the stream is played."""
    with connected(endpoint, key, server_key) as client:
        print(client.set_loop(_loop(times)).state)


@send_app.command("status")
def status(
    endpoint: Endpoint = UNIT_ENDPOINT,
    follow: Annotated[bool, typer.Option("--follow", help="Print each as it is published, one a line.")] = False,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Print how the newest run goes, as JSON."""
    with connected(endpoint, key, server_key) as client:
        if not follow:
            print(client.status().model_dump_json(indent=2))
            return
        for published in client.statuses():
            print(published.model_dump_json(), flush=True)


@send_app.command("models")
def models(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """List the models that the server offers."""
    with connected(endpoint, key, server_key) as client:
        first, total = 0, 1
        while first < total:
            page = client.models(first)
            first, total = first + max(len(page.models) + page.unreadable, 1), page.total
            for model in page.models:
                began = datetime.fromtimestamp(model.start_ns // 10**9, UTC)
                print(f"{model.id}  {began:%Y-%m-%dT%H:%M:%SZ}  {(model.end_ns - model.start_ns) / 1e9:g} s  "
                      f"{model.directory}")  # fmt: skip


@send_app.command("stop")
def stop(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """End the run; what it wrote is undone."""
    with connected(endpoint, key, server_key) as client:
        print(client.stop().state)


@send_app.command("shutdown")
def shutdown(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """End the server, and its run with it."""
    with connected(endpoint, key, server_key) as client:
        print(client.shutdown().state)


@contextmanager
def connected(endpoint: str, key: Path | None, server_key: Path | None) -> Iterator[ReplayClient]:
    """A client of the server at an endpoint, with the keys in these files, both or none."""
    from nsstream.errors import InputError
    from nsstream.replay import ReplayClient
    from nsstream.replay.keys import load_client_keys

    if (key is None) != (server_key is None):
        raise InputError("--key and --server-key go together")
    keys = None if key is None or server_key is None else load_client_keys(key, server_key)
    with ReplayClient(endpoint, keys=keys) as client:
        yield client


def _other_fates(status: Status) -> str:
    """What became of packets and flows that did not go out as they were, by name."""
    counts = {name: n for name, n in status.tally.items() if name.startswith(_FATES)}
    counts |= {name: n for name, n in status.counters.items() if name.startswith(("frames_", "flows_"))}
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n and name not in _GOOD_FATES)


def _json(text: str, option: str) -> dict[str, Any]:
    from nsstream.errors import InputError

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{option}: is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise InputError(f"{option}: is not a JSON object, but {text!r:.80}")
    return value


def _loop(text: str) -> int | None:
    from nsstream.errors import InputError

    if text == "forever":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise InputError(f"how often a stream is played is a number from 1 on, or forever, got {text!r:.80}")
    return int(text)


def _number(text: str) -> float:
    from nsstream.errors import InputError

    if not text.replace(".", "", 1).isdigit() or not text.isascii():
        raise InputError(f"seconds from the first frame are like 90s or 0.5s, got {text + 's'!r:.80}")
    return float(text)


def _time_ns(text: str) -> int:
    from nsstream.errors import InputError

    try:
        time = datetime.fromisoformat(text)
    except ValueError as err:
        raise InputError(f"a time is like 90s, or 2026-01-31T12:00:00Z, got {text!r:.80}") from err
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
