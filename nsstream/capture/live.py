"""LiveSource: what passes on a network interface now, as a source; CAP_NET_RAW is all it needs.

Promises: every frame that the kernel took for us is a row or counted by reason: at the end ``offered`` is the kernel's
own count (tp_packets), and ``dropped["nic"]`` more. Dropped at the ``ring`` is what found no room there, and what was
in it, unread, when the source was closed. Dropped at the ``nic`` is what the device had no buffer for
(rx_missed_errors), whatever the filter would have said to it. No other counter of the device is read: rx_dropped counts
frames that we have seen, too, when no protocol wanted them.

Frames are as they were on the wire: VLAN tags that the kernel has taken off are put back (`wire.ring_block`). On the
loopback interface each frame comes twice, and one is kept. An interface that goes down is waited for; one that
is removed ends the source with InputError, when all that came before has been read.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

import numpy as np

from nsstream.capture.bpf import compile_filter
from nsstream.capture.interface import Interface, InterfaceQuery
from nsstream.capture.packet_ring import Fanout, PacketRing, RingSize
from nsstream.capture.source import IDLE_S
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire import RecordIndex, dissect
from nsstream.wire.fates import add_fates
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW
from nsstream.wire.ring_block import max_frames, scan_block

ANY: Final = "any"
MAX_SNAPLEN: Final = 1 << 16
# Link, IP and transport headers, with tags and all but the longest chains of IPv6 extension headers.
DEFAULT_SNAPLEN: Final = 192
BROKEN_FRAME: Final = "broken_ring_frame"

_BATCH_ROWS: Final = 1 << 14  # then the columns are still in the cache
_NIC_EVERY_BATCHES: Final = 256

# Hardware types (linux/if_arp.h) whose frames we read as they are; all others come without their link header.
_LINK_TYPES: Final = {1: ETHERNET, 772: ETHERNET, 519: RAW, 65534: RAW}  # Ethernet, loopback, raw IP, none (tun)
_MONITOR_TYPES: Final = (801, 802, 803)  # IEEE 802.11 frames, bare, with Prism or radiotap header

_log = logging.getLogger(__name__)


class LiveSource:
    """Packets of one interface, or of all of them: ``any``.

    It captures in the network namespace of the thread that calls `open`; any thread may read.
    """

    def __init__(
        self,
        interface: str,
        *,
        capture_filter: str = "",
        snaplen: int = DEFAULT_SNAPLEN,
        is_promiscuous: bool = True,
        fanout: Fanout | None = None,
        size: RingSize | None = None,
    ) -> None:
        """Nothing is touched before `open`.

        Args:
            interface: its name, or ``any``.
            capture_filter: in the language of pcap-filter(7), applied by the kernel.
            snaplen: octets of a frame to look at; what it cuts off a header is counted as ``cut_by_snaplen``.
            is_promiscuous: see frames to other hosts, too.
            fanout: to share the frames with other processes.
            size: of the ring; 64 MiB unless told.
        """
        if not 1 <= snaplen <= MAX_SNAPLEN:
            raise ValueError(f"snaplen must be 1 to {MAX_SNAPLEN}, got {snaplen}")
        self.tally = Tally()
        self.kernel_packet_count = 0  # frames that passed the filter, as the kernel counts them (tp_packets)
        self._name = interface
        self._filter = capture_filter
        self._snaplen = snaplen
        self._is_promiscuous = is_promiscuous
        self._fanout = fanout
        self._size = size or RingSize()
        self._ring: PacketRing | None = None
        self._query: InterfaceQuery | None = None
        self._index = RecordIndex.with_room_for(0)
        self._link_type = ETHERNET
        self._interface: Interface | None = None
        self._missed_count = 0
        self._batch_count = 0
        self._drain_waits: int | None = None  # since `stop`
        self._has_ended = False
        self._is_down = False

    @property
    def link_type(self) -> int:
        """Of the frames, once open: `link.ETHERNET`, `link.RAW` or `link.LINUX_SLL`."""
        return self._link_type

    def open(self) -> None:
        """Start to capture.

        Raises InputError where the interface is missing, down or of a kind that is not supported, where the filter is
        wrong, and where a right or memory is missing.
        """
        self.close()
        self.tally = Tally()
        self.kernel_packet_count = self._batch_count = 0
        self._drain_waits, self._has_ended, self._is_down = None, False, False
        _load_loops()
        try:
            self._acquire()
        except OSError as err:
            self._release()
            raise InputError(f"{self._name}: {_why_not(err)}") from err
        except BaseException:
            self._release()
            raise

    def read_batch(self) -> PacketBatch | None:
        """The next packets; no rows where none came for `IDLE_S`; None when all has been read after `stop`.

        Raises InputError when the interface has been removed.
        """
        if self._has_ended:
            return None
        ring = self._opened()
        while True:
            if not ring.ready_blocks(1):
                ring.wait(IDLE_S)
            if ring.ready_blocks(1):
                return self._read(ring)
            self._count(ring)
            self._count_missed()
            if self._drain_waits is not None:
                self._drain_waits += 1
                # The kernel gives out the last block within two timeouts.
                if self._unread_count == 0 or self._drain_waits * IDLE_S > 1 + 4 * self._size.retire_ms / 1000:
                    self._end(ring)
                    return None
                ring.error()  # or it would end the next wait at once
                continue
            self._look_at_interface(ring)
            return PacketBatch.empty()

    def stop(self) -> None:
        """Take in no more frames; `read_batch` gives what is in the ring, and then None."""
        if self._ring is not None and self._drain_waits is None:
            self._ring.stop()
            self._drain_waits = 0

    def close(self) -> None:
        """Release the ring; what it held is counted as dropped. The tally stays."""
        if self._ring is not None:
            try:
                self._ring.stop()
                self._end(self._ring)
            finally:
                self._release()

    @property
    def _unread_count(self) -> int:
        """Frames that the kernel has put into the ring and we have not taken out."""
        return self.kernel_packet_count + self.tally.dropped["nic"] - self.tally.offered

    def _opened(self) -> PacketRing:
        if self._ring is None:
            raise RuntimeError("read_batch before open")
        return self._ring

    def _acquire(self) -> None:
        self._query = InterfaceQuery()
        self._interface = self._find(self._query)
        self._link_type = _link_type(self._name, self._interface)
        program = compile_filter(self._filter, self._link_type, self._snaplen, interface=self._name)
        loopback = self._interface or self._query.by_name("lo")
        if loopback is not None and loopback.is_loopback:
            program = program.without_loopback_copies(loopback.index)
        self._index = RecordIndex.with_room_for(max(_BATCH_ROWS, max_frames(self._size.block_bytes)))
        self._ring = PacketRing(self._size, is_cooked=self._link_type == LINUX_SLL)
        self._ring.start(
            program,
            0 if self._interface is None else self._interface.index,
            is_promiscuous=self._is_promiscuous,
            fanout=self._fanout,
        )
        error = self._ring.error()
        if error:
            raise OSError(error, errno.errorcode.get(error, str(error)))

    def _find(self, query: InterfaceQuery) -> Interface | None:
        if self._name == ANY:
            return None
        found = query.by_name(self._name)
        if found is None:
            raise InputError(f"{self._name}: there is no such interface; `ip link` lists what there is")
        self._missed_count = found.missed_count
        return found

    def _read(self, ring: PacketRing) -> PacketBatch:
        size = ring.size
        room = len(self._index) - max_frames(size.block_bytes)
        count = broken = blocks = 0
        ready = ring.ready_blocks(size.block_count)
        while blocks < ready and count <= room:
            block = ring.next_block + blocks * size.block_bytes
            count, unseen = scan_block(ring.octets, block, size.block_bytes, self._link_type, self._index, count)
            broken += unseen
            blocks += 1
        columns, fate_counts = dissect(ring.octets, self._index, count)
        for _ in range(blocks):
            ring.release()
        add_fates(self.tally, fate_counts)
        if broken:
            self.tally.offered += broken
            self.tally.malformed[BROKEN_FRAME] += broken
        self._count(ring)
        self._batch_count += 1
        if self._batch_count % _NIC_EVERY_BATCHES == 0:
            self._count_missed()
        return PacketBatch.from_columns(columns)

    def _count(self, ring: PacketRing) -> None:
        packets, drops = ring.statistics()
        self.kernel_packet_count += packets
        self.tally.drop("ring", drops)

    def _count_missed(self) -> None:
        if self._interface is None or (self._fanout is not None and self._fanout.member != 0):
            return
        now = self._interface_now(self._interface.index)
        if now is not None:
            self.tally.drop("nic", max(0, now.missed_count - self._missed_count))
            self._missed_count = now.missed_count

    def _interface_now(self, index: int) -> Interface | None:
        """None where there is none any more, or the kernel cannot tell now: it will be asked again."""
        assert self._query is not None
        try:
            return self._query.by_index(index)
        except OSError:
            return None

    def _look_at_interface(self, ring: PacketRing) -> None:
        """Notice that the interface went down, came up again, or was removed (then raise InputError)."""
        error = ring.error()
        if error not in (0, errno.ENETDOWN):
            raise InputError(f"{self._name}: capturing failed: {errno.errorcode.get(error, error)}")
        if self._interface is None:
            return
        if not ring.is_bound():
            if self._unread_count == 0:
                self._has_ended = True
                raise InputError(f"{self._name}: the interface was removed while it was captured")
            return
        now = self._interface_now(self._interface.index)
        if now is not None and now.is_up == self._is_down:
            self._is_down = not now.is_up
            _log.warning("interface %s interface=%s", "down" if self._is_down else "up", self._name)

    def _end(self, ring: PacketRing) -> None:
        self._has_ended = True
        self._count(ring)
        self._count_missed()
        self.tally.drop("ring", max(0, self._unread_count))

    def _release(self) -> None:
        ring, query, self._ring, self._query = self._ring, self._query, None, None
        self._has_ended = True
        if ring is not None:
            ring.close()
        if query is not None:
            query.close()


def _load_loops() -> None:
    """What numba compiles or loads, it does before the first frame."""
    octets, index = np.zeros(64, np.uint8), RecordIndex.with_room_for(0)
    scan_block(octets, 0, len(octets), ETHERNET, index, 0)
    dissect(octets, index, 0)


def _link_type(name: str, interface: Interface | None) -> int:
    if interface is None:
        return LINUX_SLL
    if interface.hardware_type in _MONITOR_TYPES:
        raise InputError(f"{name}: IEEE 802.11 frames are not supported here; capture them by the pyshark source")
    if not interface.is_up:
        raise InputError(f"{name}: the interface is down; `ip link set {name} up` starts it")
    return _LINK_TYPES.get(interface.hardware_type, LINUX_SLL)


def _why_not(err: OSError) -> str:
    if err.errno in (errno.EPERM, errno.EACCES):
        return "capturing needs CAP_NET_RAW: run as root, or give the service AmbientCapabilities=CAP_NET_RAW"
    if err.errno == errno.ENOMEM:
        return "the kernel has no memory for the ring; make it smaller"
    if err.errno == errno.ENETDOWN:
        return "the interface is down"
    return f"cannot be captured: {err.strerror or err}"
