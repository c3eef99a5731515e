"""The replay server's process: ``python -m nsstream.replay.server --endpoint ipc:///run/nsstream/control.sock``.

Prints one JSON line once it serves, ``{"event": "ready", "endpoint": ..., "pid": ...}``, on standard output or on the
descriptor that `--ready-fd` names, which leaves standard output to the sink `stdout`; logs to standard error. SIGTERM,
SIGINT, `shutdown`, and the death of the parent that `--exit-with-parent` names end the run, whose output is undone, and
then the server, with exit status 0. A second SIGINT ends it as the system does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from nsstream.clock import SystemClock
from nsstream.errors import NsstreamError
from nsstream.replay.conductor import OpenStream
from nsstream.replay.control import ControlServer
from nsstream.replay.keys import ServerKeys, load_server_keys
from nsstream.replay.messages import Status
from nsstream.replay.process_memory import ProcessMemory, keep_one_heap
from nsstream.replay.safety import SendingRules, add_sending_options, rules_from
from nsstream.replay.stream import open_stream as open_real_stream
from nsstream.secret_files import find_secret

MOST_DESCRIPTORS: Final = 65_536  # strangers hold some until their handshake is given up, and a run needs a few


def main(
    arguments: Sequence[str] | None = None,
    open_stream: OpenStream = open_real_stream,
    on_status: Callable[[Status], None] = lambda status: None,
) -> int:
    """Serve until told to end; gives the exit status. `open_stream` makes the frames of a run.

    `on_status` is told of every status that is published.
    """
    options, rules = _parse(arguments)
    keep_one_heap()
    _allow_many_descriptors()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    parent = options.exit_with_parent
    if open_stream is open_real_stream:
        import nsstream.draw  # noqa: F401  # torch's loading holds the interpreter: no command is to wait behind it
    memory = ProcessMemory(SystemClock())
    memory.begin("the server itself")
    memory.settle()
    try:
        with closing(
            ControlServer(
                options.endpoint,
                open_stream,
                SystemClock(),
                keys=_server_keys(options),
                model_directories=[path.absolute() for path in options.models],
                is_orphaned=lambda: parent is not None and os.getppid() != parent,
                rules=rules,
                memory=memory,
                on_status=on_status,
            )
        ) as server:
            endpoint = server.bind()
            _end_on_signals(server)
            os.write(options.ready_fd, _ready_line(endpoint))
            is_quiet = server.serve()
    except NsstreamError as err:
        print(err, file=sys.stderr)
        return 1
    if not is_quiet:
        # A draw cannot be cut short, and the interpreter must not be torn down under it; the sink is undone already.
        logging.shutdown()
        os._exit(0)
    return 0


def _allow_many_descriptors() -> None:
    """Raise the limit of open descriptors as far as that is ours to do; many systems begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _server_keys(options: argparse.Namespace) -> ServerKeys | None:
    if options.keys is None:
        return None
    secret = None if options.secret_key is None else find_secret(options.secret_key, os.environ)
    return load_server_keys(options.keys, secret)


def _ready_line(endpoint: str) -> bytes:
    return json.dumps({"event": "ready", "endpoint": endpoint, "pid": os.getpid()}).encode() + b"\n"


def _end_on_signals(server: ControlServer) -> None:
    def end(number: int, frame: object) -> None:
        # Not so for SIGTERM: after a Ctrl-C, which reaches the whole group, the parent's own SIGTERM follows.
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        server.request_end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, SendingRules]:
    parser = argparse.ArgumentParser(prog="python -m nsstream.replay.server", description="Serve replay commands.")
    parser.add_argument("--endpoint", required=True, help="ipc:///absolute/path, or tcp://ADDRESS:PORT with --keys")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="as `nsstream keys server` makes it")
    parser.add_argument(
        "--secret-key", metavar="FILE", help="the server's, where it is not in DIR; credential:NAME: systemd's"
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", action="append", default=[], help="list the models in it; may be repeated"
    )
    parser.add_argument("--exit-with-parent", type=int, metavar="PID", help="end when PID is no longer the parent")
    parser.add_argument(
        "--ready-fd", type=int, default=1, metavar="FD", help="descriptor of the line that says that it is ready; 1"
    )
    add_sending_options(parser)
    options = parser.parse_args(arguments)
    if options.secret_key is not None and options.keys is None:
        parser.error("--secret-key needs --keys, whose clients are let in")
    try:
        os.fstat(options.ready_fd)
        return options, replace(rules_from(options), stdout=options.ready_fd != 1)
    except (OSError, OverflowError) as err:
        parser.error(f"--ready-fd: {err}")
    except ValueError as err:
        parser.error(str(err))


if __name__ == "__main__":
    sys.exit(main())
