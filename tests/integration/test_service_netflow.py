"""The daemon on a socket that a service manager holds: what comes while nobody reads is read by the next one."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from made_netflow import data_set, template_set, v9
from service_nest import Nest, wait_until
from socket_holder import START

from nsstream.capture.sockets import bind_socket, grow_receive_buffer
from nsstream.chunk import ChunkStore

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs a receive buffer beyond net.core.rmem_max, as systemd")
LIFE = 200  # flows
COMPILES_S = 300  # numba, where nothing was decoded on this machine before


def export(number: int) -> bytes:
    """Flow `number`; the template is told with the first one alone."""
    return v9(*([template_set(9)] if number == 0 else []), data_set(number, 1), sequence=number)


@pytest.mark.root
@ONLY_ROOT
def test_exports_that_come_while_the_daemon_is_down_are_not_lost(tmp_path: Path):
    held = bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)
    grow_receive_buffer(held, 64 << 20)
    nest = Nest(
        tmp_path, source={"input": "netflow:@"}, chunks={"length_s": 1, "lateness_s": 3}, training={"enabled": False}
    )
    told = subprocess.run(
        [sys.executable, "-m", "nsstream_daemon", "validate", "-c", str(nest.config)], capture_output=True, timeout=300
    )
    assert told.returncode == 0, told.stderr
    sent = 0

    def send() -> None:
        nonlocal sent
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            for _ in range(LIFE):
                end.sendto(export(sent), held.getsockname())
                sent += 1

    os.set_inheritable(held.fileno(), True)
    command = [
        sys.executable,
        "-c",
        START,
        str(held.fileno()),
        "-m",
        "nsstream_daemon",
        "daemon",
        "-c",
        str(nest.config),
    ]
    try:
        for _ in range(3):
            send()  # nobody reads
            with nest.log.open("ab") as log:
                nest.daemon = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[held.fileno()])
            wait_until(lambda: nest.ask_or_none("status") is not None)
            wait_until(lambda: nest.ask("status")["capture"]["tally"]["kept"] >= LIFE, COMPILES_S)
            send()
            wait_until(lambda: nest.ask("status")["capture"]["tally"]["kept"] >= 2 * LIFE)
            assert nest.stop() == 0, nest.log.read_text()
    finally:
        nest.close()
        held.close()
    store = ChunkStore(nest.state / "chunks")
    numbers = [
        struct.unpack("!I", bytes(row[12:]))[0]
        for info in store.list()
        for row in store.read(info.id).flows.source_address
    ]
    assert sorted(numbers) == list(range(sent))
