"""Labels: which flows of a stream are an attack's, as a CSV file that tests of intrusion detection compare with.

A line is one flow of one chunk, both directions, from the frames themselves: so it names the addresses, ports and times
that are sent. A flow that goes on in the next chunk has another line there. The file holds what was read from the
stream so far, chunk by chunk, and stays if the run is stopped.
"""

from __future__ import annotations

import csv
import ipaddress
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.assemble import Frames
from nsstream.errors import OutputError
from nsstream.replay.frame_packets import packets_of
from nsstream.replay.stream import FrameBlock, OpenedStream, no_frames, take_frames
from nsstream.replay.streams.wrapped import WrappedStream
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations

HEADER: Final = (
    "start_ns", "end_ns", "protocol_identifier", "initiator_address", "initiator_port", "responder_address",
    "responder_port", "packet_count", "octet_count", "label", "model_id", "chunk",
)  # fmt: skip
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Labels:
    """The file; raises OutputError where it exists and is not to be replaced, or cannot be written."""

    def __init__(self, path: Path, label: str, *, overwrite: bool = False) -> None:
        self._path = path
        self._label = label
        self._packets: list[PacketBatch] = []
        self._chunk: tuple[int, str] | None = None
        try:
            self._file = path.open("w" if overwrite else "x", newline="", encoding="ascii")
            self._rows = csv.writer(self._file, lineterminator="\n")
            self._rows.writerow(HEADER)
            self._file.flush()
        except FileExistsError as err:
            raise OutputError(f"{path}: exists already, and is not overwritten") from err
        except OSError as err:
            raise self._error(err) from err

    def add(self, chunk: int, model_id: str, frames: Frames) -> None:
        """Note frames of the attack; those of a chunk before are written."""
        if self._chunk != (chunk, model_id):
            self.flush()
            self._chunk = chunk, model_id
        if len(frames):
            self._packets.append(packets_of(frames))

    def flush(self) -> None:
        """Write what was noted."""
        if self._chunk is None or not self._packets:
            return
        table, _ = group_conversations(PacketBatch.concatenate(self._packets))
        self._packets = []
        first, counts = table.packet_offset[:-1], table.packet_count
        last = table.observation_time_ns[table.packet_offset[1:] - 1]
        octets = np.add.reduceat(table.ip_total_length.astype(np.int64), first)
        try:
            for i in np.argsort(table.observation_time_ns[first], kind="stable").tolist():
                self._rows.writerow(
                    (
                        int(table.observation_time_ns[first[i]]), int(last[i]), int(table.protocol_identifier[i]),
                        _text(table.initiator_address[i].tobytes()), int(table.initiator_port[i]),
                        _text(table.responder_address[i].tobytes()), int(table.responder_port[i]),
                        int(counts[i]), int(octets[i]), self._label, self._chunk[1], self._chunk[0],
                    )
                )  # fmt: skip
            self._file.flush()
        except OSError as err:
            raise self._error(err) from err

    def close(self) -> None:
        """Write the rest, and close the file; may be repeated."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _error(self, err: OSError) -> OutputError:
        return OutputError(f"{self._path}: {(err.strerror or str(err)).lower()}")


class LabelledStream(WrappedStream):
    """A stream whose attack is listed as it is read."""

    def __init__(self, stream: OpenedStream, labels: Labels) -> None:
        super().__init__(stream)
        self._labels = labels

    def read(self) -> FrameBlock | None:
        """The next block; raises OutputError where the labels cannot be written."""
        block = self._stream.read()
        if block is None:
            self._labels.flush()
            return None
        assert isinstance(block, FrameBlock), "a model of flows has no attack"
        attack = no_frames() if block.is_attack is None else take_frames(block.frames, np.flatnonzero(block.is_attack))
        self._labels.add(block.chunk, block.model_id, attack)
        return block

    def close(self) -> None:
        """Close the stream and the file."""
        self._stream.close()
        self._labels.close()


def _text(address: bytes) -> str:
    if address.startswith(_V4_MAPPED):
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))
