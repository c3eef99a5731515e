"""Assembler: conversations in, whole frames in time order out.

Promises: every frame is complete and lawful; what had to be changed or left out is counted in `tally` under the
names of `records.Repair` in lower case; the same generator state and tables give the same octets; TCP streams whose
five-tuple comes again in a later table go on with their numbers. Addresses and ports are used as they come.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.catalogue import PayloadKind, services_for
from nsstream.assemble.chance import mix_all
from nsstream.assemble.emit import emit, lay_out
from nsstream.assemble.fragmentation import fragment_table
from nsstream.assemble.fragments import join_fragments
from nsstream.assemble.frames import Frames
from nsstream.assemble.link import group_addresses, link_addresses
from nsstream.assemble.plan import plan_table
from nsstream.assemble.quotes import quote
from nsstream.assemble.records import CONVERSATION, PACKET, Repair
from nsstream.assemble.segment import segment_table
from nsstream.assemble.services import ServiceTable, plain_fill, service_of
from nsstream.assemble.streams import StreamMemory, is_remembered, move_ports, stream_keys
from nsstream.assemble.tcp import make_scratch
from nsstream.assemble.transport import crc32c_table
from nsstream.trace import ConversationTable
from nsstream.trace.fields import TCP, UDP

LEAST_MTU: Final = 576  # RFC 791: every host takes datagrams of this length
MOST_MTU: Final = 65_535
_TFTP: Final = 69
_TFTP_CLIENT: Final = 2069  # unassigned by IANA
_FIRST_NUMBERS: Final = np.uint64(0x3FFF)  # so that a message number has room to rise
_MOST_MOVES: Final = 256  # rounds of moving ports; a five-tuple that is still shared then is left out


class Assembler:
    """Turn `ConversationTable`s into `Frames`, one after the other.

    Args:
        rng: of initial sequence numbers and the like.
        mtu: the longest IP datagram in octets; longer ones are cut, but see `oversize`.
        stream_limit: how many five-tuples are remembered from table to table.
        services: messages by port, in place of those of `payload`.
        payload: `template`, `zero` or `random`; see `catalogue`.
        oversize: what becomes of datagrams beyond the MTU: `clamp` cuts them; `segment` sends TCP as several segments,
            UDP and ICMP echoes as IP fragments.

    Attributes:
        tally: repairs and drops by name, of all calls so far.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        mtu: int = 1500,
        stream_limit: int = 131_072,
        services: ServiceTable | None = None,
        payload: PayloadKind = "template",
        oversize: Literal["clamp", "segment"] = "clamp",
    ) -> None:
        if not LEAST_MTU <= mtu <= MOST_MTU:
            raise ValueError(f"mtu must be {LEAST_MTU} to {MOST_MTU}, got {mtu}")
        if oversize not in ("clamp", "segment"):
            raise ValueError(f"oversize must be clamp or segment, got {oversize!r}")
        self._segments = oversize == "segment"
        self.tally: Counter[str] = Counter()
        self._rng = rng
        self._mtu = mtu
        self._salt = np.uint64(rng.integers(1 << 63))
        self._memory = StreamMemory(stream_limit)
        self._services = services or services_for(payload)
        self._crc_table = crc32c_table()

    def assemble(self, table: ConversationTable) -> Frames:
        """Make the frames of all packets of a table that can be made lawful, merged in time order."""
        counts = np.zeros(len(Repair), np.int64)
        if self._segments:
            table, counts[Repair.SEGMENTED] = segment_table(table, self._mtu)
            table, counts[Repair.FRAGMENTED] = fragment_table(table, self._mtu)
        conversations = self._conversations(table)
        _part_tftp(conversations, counts)
        packets = _packets(table)
        first = table.packet_offset[:-1]
        start_ns = table.observation_time_ns[first]
        end_ns = np.maximum.reduceat(table.observation_time_ns, first) if len(table) else start_ns
        keys, order = _share_streams(conversations, start_ns, end_ns, counts)
        unique, conversations["stream"] = np.unique(keys, return_inverse=True)
        streams = self._memory.recall(unique)
        self._begin(streams, unique, _numbers_anywhere(conversations, len(unique)))
        conversations["flow_label"] = mix_all(keys ^ self._salt) & np.uint64(0xFFFFF)
        conversations["identifier"] = mix_all(keys ^ self._salt) >> np.uint64(48)
        longest = int(table.packet_count.max(initial=0))
        plan_table(
            conversations,
            table.packet_offset,
            order,
            streams,
            packets,
            table.tcp_event,
            table.tcp_header_length,
            self._services.minimum,
            self._mtu,
            make_scratch(longest),
            counts,
        )
        is_kept = np.zeros(len(unique), bool)
        is_kept[conversations["stream"]] = is_remembered(table.protocol_identifier)
        self._memory.keep(unique[is_kept], streams[is_kept])
        self._count(counts)
        rows = np.flatnonzero(packets["is_kept"])
        rows = rows[np.argsort(packets["time_ns"][rows], kind="stable")]
        place = np.zeros(len(packets), np.int64)
        place[rows] = np.arange(len(rows))
        counts[:] = 0
        join_fragments(packets, conversations, rows, counts)
        quote(packets, conversations, rows, counts)
        self._count(counts)
        times_ns, offset = lay_out(packets, conversations, rows)
        octets = np.empty(int(offset[-1]), np.uint8)
        emit(packets, conversations, rows, offset, self._services, self._crc_table, place, self._mtu, octets)
        return Frames(times_ns, offset, octets, packets["direction"][rows])

    def _conversations(self, table: ConversationTable) -> NDArray[np.void]:
        """The `CONVERSATION` rows of a table; what depends on the stream is left zero."""
        rows = np.zeros(len(table), CONVERSATION)
        rows["address"] = np.stack([table.initiator_address, table.responder_address], axis=1)
        rows["port"] = np.stack([table.initiator_port, table.responder_port], axis=1)
        rows["ttl"] = np.stack([table.initiator_ttl, table.responder_ttl], axis=1)
        rows["syn_ttl"] = np.stack([table.initiator_ttl, table.responder_syn_ttl], axis=1)
        rows["syn_ttl"] = np.where(rows["syn_ttl"] > 0, rows["syn_ttl"], rows["ttl"])
        rows["class_of_service"] = np.stack(
            [table.initiator_class_of_service, table.responder_class_of_service], axis=1
        )
        rows["vlan_id"] = table.vlan_id
        rows["protocol"] = table.protocol_identifier
        rows["version"] = np.where(table.ip_version == 6, 6, 4)
        rows["is_fragment"] = table.is_fragment != 0
        rows["mac"] = link_addresses(rows["address"], rows["version"])
        rows["mac"][_to_directed_broadcast(table), 1] = 0xFF
        is_group = group_addresses(rows["address"], rows["version"])
        turned = is_group[:, 0] & ~is_group[:, 1]
        for name in ("address", "mac", "port", "ttl", "syn_ttl", "class_of_service"):
            rows[name][turned] = rows[name][turned][:, ::-1]
        _as_numbers(rows)
        rows["is_group"] = is_group.any(axis=1).astype(np.uint8) + is_group.all(axis=1)
        rows["server"] = 1
        rows["service"] = self._services.of_port[2, rows["protocol"] + 256 * (rows["version"] == 6)]
        for transport, protocol in enumerate((TCP, UDP)):
            chosen = rows["protocol"] == protocol
            rows["service"][chosen], rows["server"][chosen] = service_of(
                self._services, transport, rows["port"][chosen]
            )
        rows["fill"] = plain_fill(self._services, rows["service"], rows["server"])
        return rows

    def _count(self, counts: NDArray[np.int64]) -> None:
        self.tally.update({repair.name.lower(): int(counts[repair]) for repair in Repair if counts[repair]})

    def _begin(self, streams: NDArray[np.void], keys: NDArray[np.uint64], anywhere: NDArray[np.bool_]) -> None:
        """Set up the streams that are not known, and a generator for each; those `anywhere` do not number from 1."""
        fresh = streams["is_known"] == 0
        seed = np.uint64(self._rng.integers(1 << 63))
        streams["random"] = mix_all(keys ^ seed)
        streams["ack"][fresh] = -1
        streams["ip_id"][fresh] = (mix_all(keys ^ ~seed)[fresh, None] >> np.array([0, 16], np.uint64)) & np.uint64(
            0xFFFF
        )
        streams["serial"][anywhere] = (mix_all(keys ^ seed)[anywhere, None] >> np.uint64(40)) & _FIRST_NUMBERS
        streams["is_known"] = 1


def _to_directed_broadcast(table: ConversationTable) -> NDArray[np.bool_]:
    """Conversations (n,) of datagrams to an IPv4 address that ends in 255 and never answers (RFC 919)."""
    answers = np.add.reduceat(table.direction, table.packet_offset[:-1], dtype=np.int64) if len(table) else 0
    is_udp_4 = (table.protocol_identifier == UDP) & (table.ip_version == 4)
    found: NDArray[np.bool_] = is_udp_4 & (table.responder_address[:, 15] == 0xFF) & (answers == 0)
    return found


def _numbers_anywhere(conversations: NDArray[np.void], stream_count: int) -> NDArray[np.bool_]:
    """Which streams number their messages from anywhere on, (streams,): UDP, but for TFTP's blocks.

    What is known of them is not kept; one that goes on in the next table must not ask under the same numbers again.
    """
    is_udp = (conversations["protocol"] == UDP) & (conversations["port"] != _TFTP).all(axis=1)
    out = np.zeros(stream_count, bool)
    out[conversations["stream"][is_udp]] = True
    return out


def _as_numbers(rows: NDArray[np.void]) -> None:
    """Set `link`, `word` and `address_sum`, which say what `mac` and `address` say."""
    words = np.ascontiguousarray(rows["address"]).view(">u8").reshape(-1, 2, 2).astype(np.int64)
    words[rows["version"] == 4] &= [0, 0xFFFFFFFF]
    rows["word"] = words
    rows["address_sum"] = ((words >> 32 & 0xFFFFFFFF) + (words & 0xFFFFFFFF)).sum(axis=(1, 2))
    padded = np.zeros((len(rows), 2, 8), np.uint8)
    padded[..., 2:] = rows["mac"]
    rows["link"] = padded.view(">u8")[..., 0].astype(np.int64)


def _packets(table: ConversationTable) -> NDArray[np.void]:
    rows = np.zeros(len(table.observation_time_ns), PACKET)
    rows["time_ns"] = table.observation_time_ns
    rows["total_length"] = np.minimum(table.ip_total_length, MOST_MTU + 1)
    rows["ip_header"] = table.ip_header_length
    rows["control"] = table.control
    rows["direction"] = table.direction
    return rows


def _part_tftp(conversations: NDArray[np.void], counts: NDArray[np.int64]) -> None:
    """Give the clients of TFTP a port that nothing else uses.

    TFTP answers from any port (RFC 1350 section 4), so that a port that has spoken to 69 is TFTP's from then on: tshark
    reads all that it sends later, to whatever service, as TFTP. A port scan asks every service from one port.
    """
    is_udp = conversations["protocol"] == UDP
    for side in (0, 1):
        is_client = is_udp & (conversations["port"][:, 1 - side] == _TFTP) & (conversations["port"][:, side] != _TFTP)
        conversations["port"][is_client, side] = _TFTP_CLIENT
        counts[Repair.PORT_MOVED] += int(is_client.sum())


def _share_streams(
    conversations: NDArray[np.void], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Key conversations by five-tuple, move those that overlap, and order them by key and start."""
    keys = np.zeros(len(conversations), np.uint64)
    stream_keys(conversations, keys)
    for _ in range(_MOST_MOVES):
        order = np.lexsort((start_ns, keys))
        if not move_ports(conversations, keys, order, start_ns, end_ns, counts):
            break
    return keys, order
