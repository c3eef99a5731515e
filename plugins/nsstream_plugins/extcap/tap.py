"""Tap: what nsstream-tap shows: the packets that a daemon, or `nsstream ingest`, takes in, as its journal tells.

Headers alone, since nothing else is ever kept; lengths on the wire are the real ones, link addresses are made up. The
addresses are those of the twin unless the real ones are asked for: they go through the state's own map, so that what is
seen here is found again in what is replayed. The daemon's configuration says where a key is that is not in the state,
and which ranges it maps into. Before the first model there is no such map, and one is made for the capture.
"""

from __future__ import annotations

import os
import secrets
import threading
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.frames import Frames
from nsstream.chunk.header_frames import header_frames
from nsstream.chunk.journal_follow import JournalFollower
from nsstream.encode.address_map import AddressMap
from nsstream.errors import StateError
from nsstream.pipeline.address_keys import own_key
from nsstream.pipeline.config_file import load_config
from nsstream.pipeline.outputs import KEY_FILE
from nsstream.pipeline.service_config import ServiceConfig
from nsstream.replay.pipe_writer import PipeWriter
from nsstream.replay.stream import make_rise, take_frames
from nsstream.secret_files import DIRECTORY, SCHEME, SecretFile, find_secret
from nsstream.trace import PacketBatch
from nsstream_plugins.extcap import grammar
from nsstream_plugins.extcap.controls import Message
from nsstream_plugins.extcap.frame_filter import FrameFilter

CREDENTIALS: Final = (Path("/run/credentials/nsstreamd.service"), Path("/etc/credstore"))
WAIT_S: Final = 0.5
KEY_BYTES: Final = 32


class Tap:
    """A feed (`capture.Feed`); raises InputError or StateError where nothing can be followed."""

    def __init__(self, asked: Namespace) -> None:
        config = load_config(Path(asked.config)) if asked.config else None
        state = Path(asked.state) if config is None else config.state
        self._filter = FrameFilter(asked.extcap_capture_filter)
        self._map = None if asked.addresses == "real" else _map_of(state, config)
        self._journal = JournalFollower(state / "journal")
        self._is_paused = threading.Event()
        self._last_ns: int | None = None

    def run(self, descriptor: int, show: Callable[[str], None]) -> None:
        """Write what comes until the process ends."""
        pipe = PipeWriter("the capture", lambda: False)
        pipe.begin(descriptor, has_header=True)
        self._journal.open()
        while True:
            batches = self._journal.read(WAIT_S)
            packets = [rows for rows in batches if isinstance(rows, PacketBatch) and len(rows)]
            if len(packets) < sum(1 for rows in batches if len(rows)):
                raise StateError("this state takes flow records in, and they have no packets to show")
            if packets and not self._is_paused.is_set():
                self._write(pipe, PacketBatch.concatenate(packets))

    def control(self, message: Message) -> None:
        """Take a pause of the toolbar; what comes meanwhile is not shown later."""
        if message.control == grammar.PAUSE_CONTROL:
            self._is_paused.set() if grammar.is_true(message.text) else self._is_paused.clear()

    def _write(self, pipe: PipeWriter, packets: PacketBatch) -> None:
        columns = dict(packets.columns())
        if self._map is not None:
            columns["source_address"] = self._map.map(packets.source_address)
            columns["destination_address"] = self._map.map(packets.destination_address)
        order = np.argsort(packets.observation_time_ns, kind="stable")
        rows = PacketBatch.from_columns({name: column[order] for name, column in columns.items()})
        offset, octets, wire_length = header_frames(rows)
        times, _ = make_rise(rows.observation_time_ns, None)
        self._put(pipe, Frames(times, offset, octets), wire_length)

    def _put(self, pipe: PipeWriter, frames: Frames, wire_length: NDArray[np.int64]) -> None:
        passed = self._filter.rows(frames, wire_length)
        if passed is not None:
            frames, wire_length = take_frames(frames, passed), wire_length[passed]
        if len(frames):
            pipe.write(frames, wire_length)


def _map_of(state: Path, config: ServiceConfig | None) -> AddressMap:
    """The map of the models of a state directory."""
    if config is None:
        return AddressMap(_key_in(state))
    named = config.training.address_key
    key = _key_in(state) if named is None else own_key(_secret(named), state / "models")
    return AddressMap(key, config.training.ipv4_range, config.training.ipv6_range)


def _key_in(state: Path) -> bytes:
    path = state / KEY_FILE
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError as err:
        if (state / "models" / "promoted").is_symlink():
            raise StateError(
                f"{state} has models, and their key is kept elsewhere; name the daemon's configuration (--config), "
                "which says where, or ask for real addresses"
            ) from err
        return secrets.token_bytes(KEY_BYTES)  # no model was trained yet, so there is no twin to agree with
    except (OSError, ValueError) as err:
        raise StateError(f"{path} cannot be read: {err}") from err


def _secret(named: str, places: Sequence[Path] = CREDENTIALS) -> SecretFile:
    """A file, or a credential: of our own service manager, or as the daemon's unit has it, or as it is stored."""
    if not named.startswith(SCHEME) or DIRECTORY in os.environ:
        return find_secret(named, os.environ)
    name = named.removeprefix(SCHEME)
    for directory in places:
        if os.access(directory / name, os.R_OK):
            return find_secret(named, {DIRECTORY: str(directory)})
    told = " or ".join(map(str, places))
    raise StateError(
        f"{named}: cannot be read in {told}: root may, the daemon's key is a secret; or ask for real addresses"
    )
