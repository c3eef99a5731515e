"""PacketRing: an AF_PACKET socket with a TPACKET_V3 receive ring, given out block by block.

Promises: no frame is taken in that the filter does not let pass, from the first one on (it is attached before the
socket is bound); `statistics` and what was read add up to what the kernel counted; nothing but CAP_NET_RAW is needed,
and nothing of it outlives `close` (promiscuous mode ends with the socket).

Rules: (1) `ready_blocks` tells how many blocks, from `next_block` on, are ours; (2) they may be read and written until
`release` hands the first of them back, in order; (3) `stop` lets no more frames in, what is in the ring stays readable.

A block goes to its reader when it is full, or within two `retire_ms` of its first frame, however few frames it has:
under little traffic, too, a reader may stand still for ``block_count * retire_ms`` at most (6 s by default). Blocks of
1 MiB cost 0.6 times the reader's processor time of such of 256 KiB at 150,000 packets a second (2026-11, 2 CPUs).

Source: packet(7), Documentation/networking/packet_mmap.rst, linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.bpf import FilterProgram
from nsstream.wire.ring_block import BLOCK_STATUS, STATUS_KERNEL, STATUS_USER

ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_RX_RING: Final = 5
_PACKET_STATISTICS: Final = 6
_PACKET_VERSION: Final = 10
_PACKET_FANOUT: Final = 18
_TPACKET_V3: Final = 2
_PACKET_MR_PROMISC: Final = 1
_FRAME_BYTES: Final = 2048  # the kernel wants a number; TPACKET_V3 lays frames out by their own length


class FanoutMode(IntEnum):
    """How the kernel deals frames out to the sockets of a group (packet(7))."""

    HASH = 0  # by flow, both directions alike
    LOAD_BALANCE = 1  # in turns
    CPU = 2  # by the CPU that the frame came on
    RANDOM = 4
    QUEUE = 5  # by the receive queue of the interface


@dataclass(frozen=True, slots=True)
class Fanout:
    """A share of an interface's frames: the kernel deals them out to all sources of one group, of this host.

    `member` 0 is the one that counts what the device has lost, so that the members' tallies add up. While a member
    joins, frames that fall to it are lost for the group.
    """

    group: int  # 0 to 65535, of one interface and filter
    member: int = 0
    mode: FanoutMode = FanoutMode.HASH

    def __post_init__(self) -> None:
        if not 0 <= self.group < 1 << 16 or self.member < 0:
            raise ValueError(f"group must be 0 to 65535 and member 0 or more, got {self.group} and {self.member}")


@dataclass(frozen=True, slots=True)
class RingSize:
    """How much memory, and how soon a block that is not full is given out."""

    ring_bytes: int = 64 << 20
    block_bytes: int = 1 << 20
    retire_ms: int = 100

    def __post_init__(self) -> None:
        if self.block_bytes % mmap.PAGESIZE or self.block_bytes <= 0:
            raise ValueError(f"block_bytes must be a multiple of {mmap.PAGESIZE}, got {self.block_bytes}")
        if self.ring_bytes % self.block_bytes or self.ring_bytes < 2 * self.block_bytes:
            raise ValueError(f"ring_bytes must be two blocks of {self.block_bytes} or more, got {self.ring_bytes}")
        if self.retire_ms < 1:
            raise ValueError(f"retire_ms must be at least 1, got {self.retire_ms}")

    @property
    def block_count(self) -> int:
        """How many blocks the ring has."""
        return self.ring_bytes // self.block_bytes


class PacketRing:
    """One ring; every method but the constructor may raise OSError, which is the kernel's answer."""

    def __init__(self, size: RingSize, *, is_cooked: bool = False) -> None:
        """Make socket and ring; they receive nothing yet. Raises OSError: no right, or no memory."""
        self.size = size
        self._next = 0
        # Protocol 0: not one frame before the filter is attached.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM if is_cooked else socket.SOCK_RAW, 0)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
            request = struct.pack(
                "7I",
                size.block_bytes,
                size.block_count,
                _FRAME_BYTES,
                size.ring_bytes // _FRAME_BYTES,
                size.retire_ms,
                0,
                0,
            )
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self._socket.fileno(), size.ring_bytes)
        except BaseException:
            self._socket.close()
            raise
        self.octets: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        self._status = self.octets.view(np.uint32)[BLOCK_STATUS // 4 :: size.block_bytes // 4]
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN | select.POLLERR)
        self._is_in_group = False

    def start(
        self,
        program: FilterProgram,
        interface_index: int,
        *,
        is_promiscuous: bool = False,
        fanout: Fanout | None = None,
    ) -> None:
        """Receive what the program lets pass on an interface, or on all of them: index 0.

        Raises InputError if the kernel refuses the program.
        """
        # A group can be joined by a bound socket only; until it has been, nothing passes, or frames would come twice.
        (program if fanout is None else FilterProgram.accept_all(0)).attach_to(self._socket)
        _bind(self._socket, ETH_P_ALL, interface_index)
        if interface_index and is_promiscuous:
            membership = struct.pack("iHH8x", interface_index, _PACKET_MR_PROMISC, 0)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        if fanout is not None:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_FANOUT, struct.pack("=I", fanout.group | fanout.mode << 16))
            self._is_in_group = True
            program.attach_to(self._socket)

    def stop(self) -> None:
        """Let no more frames in; those in the ring can still be read."""
        FilterProgram.accept_all(0).attach_to(self._socket)
        if not self._is_in_group:  # a member cannot be bound anew
            _bind(self._socket, 0, 0)  # returns when no CPU is in the middle of a frame for us any more

    @property
    def next_block(self) -> int:
        """Index of the first octet of the block that is read next."""
        return self._next * self.size.block_bytes

    def ready_blocks(self, most: int) -> int:
        """How many blocks are ready from `next_block` on, at most `most` and to the end of the ring's memory."""
        for k, status in enumerate(self._status[self._next : self._next + most]):
            if not status & STATUS_USER:
                return k
        return min(most, self.size.block_count - self._next)

    def release(self) -> None:
        """Give the next block back to the kernel."""
        self._status[self._next] = STATUS_KERNEL
        self._next = (self._next + 1) % self.size.block_count

    def wait(self, timeout_s: float) -> None:
        """Wait until a block is ready, or what `error` tells has happened, or the time is over."""
        self._poll.poll(timeout_s * 1000)

    def error(self) -> int:
        """The socket's pending error (ENETDOWN: the interface went down), which is then forgotten; 0: none."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def statistics(self) -> tuple[int, int]:
        """Frames since the last call that passed the filter (tp_packets), and of those, the lost ones (tp_drops)."""
        packets, drops, _ = struct.unpack("3I", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12))
        return packets, drops

    def is_bound(self) -> bool:
        """Whether the interface is still there, under whatever name."""
        try:
            return bool(self._socket.getsockname()[0])
        except OSError as err:
            if err.errno in (errno.ENODEV, errno.ENXIO):
                return False
            raise

    def close(self) -> None:
        """Release socket and memory; whoever holds `octets` must have let go of it."""
        self._socket.close()
        self.octets = self._status = np.empty(0, np.uint8)
        with suppress(BufferError):  # a traceback still holds a view: the memory goes with it
            self._memory.close()


def _bind(sock: socket.socket, protocol: int, interface_index: int) -> None:
    """bind(2): Python's own takes a name only, and none for all interfaces."""
    address = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(protocol), interface_index)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(sock.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
