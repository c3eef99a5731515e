"""ExporterStatistics: what an operator wants to know of one exporter and observation domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.wire.netflow import state
from nsstream.wire.netflow.sessions import Session


@dataclass(frozen=True, slots=True)
class ExporterStatistics:
    """One exporter and domain, since it was first heard."""

    address: IPv4Address | IPv6Address
    port: int | None  # of its TCP connection; None over UDP
    version: int  # 5, 9, or 10 for IPFIX
    observation_domain_id: int  # v9: source id; v5: engine type << 8 | engine id
    datagrams: int  # or messages
    records: int  # data records that were read, flows or not
    estimated_lost: int  # by sequence number: datagrams in v9, records in v5 and IPFIX
    sequence_resets: int  # restarts, as the sequence number and the uptime tell
    templates: int
    sampling_interval: int  # of records that do not say themselves; 1: every packet, or not told
    samplers: Mapping[int, int]  # sampling interval by sampler or selector id
    last_seen_ns: int  # time of receipt of its newest message

    @classmethod
    def of(cls, session: Session, facts: NDArray[np.int64]) -> Self:
        """The statistics of a session whose row of the table of state is `facts`."""
        key = session.key
        return cls(
            address=_address(key[:16]),
            port=int.from_bytes(key[16:18], "big") if session.is_tcp else None,
            version=key[19],
            observation_domain_id=int.from_bytes(key[20:24], "big"),
            datagrams=int(facts[state.DATAGRAMS]),
            records=int(facts[state.RECORDS]),
            estimated_lost=int(facts[state.LOST]),
            sequence_resets=int(facts[state.RESETS]),
            templates=len(session.template_ids),
            sampling_interval=session.context.interval_without_sampler or int(facts[state.SAMPLING]) or 1,
            samplers=dict(session.context.intervals),
            last_seen_ns=int(facts[state.LAST_SEEN_NS]),
        )


_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def _address(octets: bytes) -> IPv4Address | IPv6Address:
    return ip_address(octets[12:] if octets[:12] == _V4_MAPPED else octets)
