"""FlowMeter: packets in, flow records out, in the order in which the flows ended.

Rules
- A flow is protocol, both addresses and ports, VLAN, and with `by_class_of_service` the octet of that name; ICMP counts
  its type and code among them. One direction is a flow (as in NetFlow), or with `is_biflow` both are one record
  (RFC 5103) whose first packet says which way is forward; there the type and code of ICMP are those of that packet.
- The clock is the latest packet time so far, or what `advance_to` says. A packet that steps back in time is counted
  where its key says, at its own time; one that steps back by more than the active timeout means that the clock jumped:
  all flows end (forced), and the clock begins anew.
- A flow ends (IANA element 136, RFC 5102 section 5.11.3) `idle_timeout_s` after its last packet, `active_timeout_s`
  after its first (then its next packet begins another record), `linger_s` after its connection ended (FIN from both
  sides, or RST) or at the next SYN, by `flush`, or when `max_flows` are open and another begins: then the one that was
  used longest ago makes room. The linger keeps the last acknowledgements in the record of their connection. One that is
  seen in one direction alone has no second FIN: it ends by a timeout.
- Later fragments have no ports: they get those of their datagram's first one, where it came first (`fragments`), else
  0. Octets are `ip_total_length`, times are the packets' own.

Promises: every packet is in one record; any batching of the same packets gives the same records in the same order;
memory is bounded by `max_flows`, and time by the packets, whoever chose their addresses.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import flow_cache as fc
from nsstream.trace import fragments, meter_loop
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowEndReason, FlowTable
from nsstream.trace.packets import PacketBatch

DEFAULT_MAX_FLOWS: Final = 1 << 18
_RECORDS_A_CALL: Final = 8192


class FlowMeter:
    """Meters one stream of packets. Not to be shared between threads.

    The default timeouts are those of Cisco IOS.
    """

    def __init__(
        self,
        *,
        active_timeout_s: float = 1800.0,
        idle_timeout_s: float = 15.0,
        linger_s: float = 1.0,
        max_flows: int = DEFAULT_MAX_FLOWS,
        is_biflow: bool = False,
        by_class_of_service: bool = False,
    ) -> None:
        if not 0 < idle_timeout_s <= active_timeout_s <= 1e9:
            raise ValueError(
                f"timeouts must be 0 < idle <= active <= 1e9 s, got {idle_timeout_s=!r}, {active_timeout_s=!r}"
            )
        if not 0 <= linger_s <= idle_timeout_s:
            raise ValueError(f"linger_s must be between 0 and the idle timeout, got {linger_s!r}")
        if not 1 <= max_flows <= 1 << 26:
            raise ValueError(f"max_flows must be between 1 and {1 << 26}, got {max_flows!r}")
        self.idle_timeout_s = idle_timeout_s
        self._rules = meter_loop.Rules(
            idle_ns=max(1, int(idle_timeout_s * 1e9)),
            active_ns=max(1, int(active_timeout_s * 1e9)),
            linger_ns=int(linger_s * 1e9),
            is_biflow=is_biflow,
            by_class_of_service=by_class_of_service,
        )
        self._cache = fc.FlowCache.with_room_for(max_flows)
        self._fragments = fragments.FragmentTable.empty()
        self.ended = dict.fromkeys(FlowEndReason, 0)  # records so far, by reason

    @property
    def open_flow_count(self) -> int:
        """Flows that have not ended yet."""
        return int(self._cache.state[fc.OPEN])

    @property
    def now_ns(self) -> int | None:
        """The meter's clock, None before the first packet."""
        return int(self._cache.state[fc.CLOCK]) if self._cache.state[fc.IS_STARTED] else None

    @property
    def clock_steps_back(self) -> int:
        """How often the packets' times stepped back by more than the active timeout."""
        return int(self._cache.state[fc.CLOCK_STEPS_BACK])

    def push(self, batch: PacketBatch) -> FlowTable:
        """Meter packets; the records of the flows that ended meanwhile, in the order of their end."""
        packets = meter_loop.Packets(
            batch.observation_time_ns,
            np.ascontiguousarray(batch.source_address).view(np.int64),
            np.ascontiguousarray(batch.destination_address).view(np.int64),
            batch.source_transport_port,
            batch.destination_transport_port,
            batch.protocol_identifier,
            batch.ip_version,
            batch.vlan_id,
            batch.ip_class_of_service,
            batch.ip_total_length,
            batch.tcp_control_bits,
            batch.icmp_type,
            batch.icmp_code,
            batch.fragment_offset,
            batch.fragment_flags,
            batch.fragment_identification,
        )
        pieces = []
        row = 0
        while row < len(batch):
            records = _empty_records()
            row, count = meter_loop.meter(packets, row, self._cache, self._fragments, self._rules, records)
            pieces.append(records[:count])
        return self._table(pieces)

    def advance_to(self, now_ns: int) -> FlowTable:
        """Move the clock on where no packet does; the records of the flows that ended by it. It never steps back."""
        state = self._cache.state
        pieces = []
        if state[fc.IS_STARTED] and now_ns > state[fc.CLOCK]:
            state[fc.CLOCK] = now_ns
            is_done = False
            while not is_done:
                records = _empty_records()
                count, is_done = meter_loop.expire(self._cache, self._rules, records, 0)
                pieces.append(records[:count])
        return self._table(pieces)

    def flush(self) -> FlowTable:
        """End all open flows, the oldest first; the meter can go on."""
        pieces = []
        while self.open_flow_count:
            records = _empty_records()
            pieces.append(records[: meter_loop.end_all(self._cache, records, 0)])
        return self._table(pieces)

    def _table(self, pieces: list[NDArray[np.int64]]) -> FlowTable:
        words = np.concatenate(pieces) if pieces else _empty_records()[:0]
        for reason, count in enumerate(np.bincount(words[:, -1], minlength=len(FlowEndReason))):
            self.ended[FlowEndReason(reason)] += int(count)
        return _to_table(words, is_biflow=self._rules.is_biflow)


def _empty_records() -> NDArray[np.int64]:
    return np.empty((_RECORDS_A_CALL, fc.SLOT_WORDS + 1), np.int64)


def _to_table(words: NDArray[np.int64], *, is_biflow: bool) -> FlowTable:
    ends, bits = words[:, fc.ENDS].view(np.uint64), words[:, fc.BITS]
    low, high = (np.ascontiguousarray(words[:, k : k + 2]).view(np.uint8).reshape(-1, 16) for k in (0, 2))
    protocol = (ends >> np.uint64(24)).astype(np.uint8)
    is_icmp = (protocol == ICMP) | (protocol == ICMPV6)
    low_port, high_port = (np.where(is_icmp, 0, ends >> np.uint64(shift)).astype(np.uint16) for shift in (48, 32))
    is_high = (bits & fc.IS_HIGH != 0) if is_biflow else np.zeros(len(words), np.bool_)
    return FlowTable.from_columns(
        {
            "flow_start_ns": words[:, fc.START].copy(),
            "flow_end_ns": words[:, fc.END].copy(),
            "ip_version": ((ends >> np.uint64(12)) & np.uint64(0xF)).astype(np.uint8),
            "source_address": np.where(is_high[:, None], high, low),
            "destination_address": np.where(is_high[:, None], low, high),
            "protocol_identifier": protocol,
            "source_transport_port": np.where(is_high, high_port, low_port),
            "destination_transport_port": np.where(is_high, low_port, high_port),
            "icmp_type_code": words[:, fc.ICMP_TYPE_CODE].astype(np.uint16),
            "packet_delta_count": words[:, fc.PACKETS].astype(np.uint64),
            "octet_delta_count": words[:, fc.OCTETS].astype(np.uint64),
            "tcp_control_bits": bits.astype(np.uint16),
            "reverse_packet_delta_count": words[:, fc.REVERSE_PACKETS].astype(np.uint64),
            "reverse_octet_delta_count": words[:, fc.REVERSE_OCTETS].astype(np.uint64),
            "reverse_tcp_control_bits": (bits >> 16).astype(np.uint16),
            "ip_class_of_service": (bits >> 32).astype(np.uint8),
            "vlan_id": (ends & np.uint64(0xFFF)).astype(np.uint16),
            "flow_end_reason": words[:, -1].astype(np.uint8),
        }
    )
