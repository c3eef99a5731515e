"""A baseline: the flow table of a trace as independent noisy histograms, of which traffic is drawn field by field.

Of each host, so many conversations at most count once in the histogram of each field; every histogram has discrete
normal noise, and all together keep to (epsilon, delta) for a host. A drawn flow has each field from its histogram, and
its packets are of one size, evenly spread, to and fro.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk import Chunk
from nsstream.counters import Tally
from nsstream.encode.public_services import PUBLIC_SERVICES
from nsstream.encode.schema import LENGTH_GRID, RARE_PORT, SIZE_GRID
from nsstream.encode.vocabulary import Vocabulary
from nsstream.privacy import noise_multiplier_for, noisy_counts
from nsstream.trace import ConversationTable, PacketBatch
from nsstream.trace.fields import PACKET_FIELDS
from nsstream.train.private_chance import Chance
from nsstream.train.private_units import units_of

HOSTS = 256  # buckets that addresses fall into by a hash
TIMES = 64  # parts of the trace
TTLS = (1, 4, 32, 60, 64, 128, 255)
DURATIONS = np.concatenate([[0.0], 10.0 ** np.arange(-4, 6)])  # seconds


def histogram_twin(
    table: ConversationTable, interval_ns: tuple[int, int], epsilon: float, delta: float, most: int
) -> Chunk:
    """A chunk of traffic drawn from a chunk's noisy histograms."""
    units = units_of(table, "host", most, Chance())
    kept = table.take(units.rows)
    fields = _fields(kept, interval_ns)
    sizes = [size for _, size in fields.values()]
    counts = np.concatenate([np.bincount(v, minlength=size) for v, size in fields.values()])
    noise = noise_multiplier_for(epsilon, delta, 1.0, 1)
    noisy = noisy_counts(counts, noise, math.ceil(most * math.sqrt(len(fields))))
    hidden = noise * most * math.sqrt(len(fields))
    blocks = dict(zip(fields, np.split(noisy.astype(float), np.cumsum(sizes)[:-1]), strict=True))
    flows = int(np.clip(np.median([block.sum() for block in blocks.values()]), 8, 1 << 20))
    rng = np.random.default_rng()
    drawn = {}
    for name, block in blocks.items():
        believed = np.where(block > hidden * math.sqrt(2 * math.log(max(len(block), 2))), block, 0.0)
        shares = believed if believed.any() else np.maximum(block, 0) + 1e-9
        drawn[name] = rng.choice(len(shares), flows, p=shares / shares.sum())
    packets = _packets(drawn, flows, interval_ns, rng)
    tally = Tally(offered=len(packets), kept=len(packets))
    return Chunk.of(*interval_ns, packets, tally, is_partial=False)


def _fields(table: ConversationTable, interval_ns: tuple[int, int]) -> dict[str, tuple[NDArray[np.int64], int]]:
    """Every field of each conversation as a bin, and how many bins there are."""
    begin, end = table.packet_offset[:-1], table.packet_offset[1:]
    first, last = table.observation_time_ns[begin], table.observation_time_ns[end - 1]
    octets = np.add.reduceat(table.ip_total_length.astype(np.int64), begin)
    known = Vocabulary(PUBLIC_SERVICES, (1,) * len(PUBLIC_SERVICES))
    columns = (table.protocol_identifier, table.ip_version, table.is_fragment, table.responder_port)
    services = np.stack([c.astype(np.int64) for c in columns], axis=1)
    services[known.tokens(services) < 0, 3] = RARE_PORT
    start_ns, end_ns = interval_ns
    ttls = np.abs(table.initiator_ttl.astype(int)[:, None] - np.array(TTLS)).argmin(axis=1)
    return {
        "initiator": (_bucket(table.initiator_address), HOSTS),
        "responder": (_bucket(table.responder_address), HOSTS),
        "service": (known.nearest(services, exact=3), len(PUBLIC_SERVICES)),
        "port": (table.initiator_port.astype(np.int64) >> 10, 64),
        "ttl": (ttls, len(TTLS)),
        "start": (np.clip((first - start_ns) * TIMES // (end_ns - start_ns), 0, TIMES - 1), TIMES),
        "duration": (np.searchsorted(DURATIONS, (last - first) * 1e-9, side="right") - 1, len(DURATIONS)),
        "packets": (LENGTH_GRID.tokens(end - begin), len(LENGTH_GRID)),
        "size": (SIZE_GRID.tokens(octets // (end - begin)), len(SIZE_GRID)),
    }


def _bucket(addresses: NDArray[np.uint8]) -> NDArray[np.int64]:
    return (addresses.astype(np.int64) * (2 * np.arange(16) + 37)).sum(axis=1) % HOSTS


def _packets(
    drawn: dict[str, NDArray[np.int64]], flows: int, interval_ns: tuple[int, int], rng: np.random.Generator
) -> PacketBatch:
    service = np.array(PUBLIC_SERVICES)[drawn["service"]]
    length = np.rint(_inside(LENGTH_GRID.edges, drawn["packets"], rng)).astype(np.int64).clip(1, 20_000)
    size = np.rint(_inside(SIZE_GRID.edges, drawn["size"], rng)).astype(np.int64)
    duration_ns = _inside(DURATIONS, drawn["duration"], rng) * 1e9
    start_ns, end_ns = interval_ns
    begin_ns = (drawn["start"] + rng.random(flows)) / TIMES * (end_ns - start_ns)  # since the interval's start
    owner = np.repeat(np.arange(flows), length)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    time_ns = begin_ns[owner] + index * (duration_ns / np.maximum(length - 1, 1))[owner]
    is_answer = index % 2 == 1
    columns = {name: np.zeros((len(owner), *cell), dtype) for name, (dtype, cell, _) in PACKET_FIELDS.items()}
    version, protocol = service[owner, 1], service[owner, 0]
    has_ports = np.isin(protocol, (6, 17))
    here = np.where(service[:, 3] == RARE_PORT, rng.integers(1024, 65536, flows), service[:, 3])
    ports = ((drawn["port"] << 10) + rng.integers(0, 1024, flows))[owner], here[owner]
    hosts = (
        _addresses(drawn["initiator"], service[:, 1], 1)[owner],
        _addresses(drawn["responder"], service[:, 1], 2)[owner],
    )
    least = np.where(version == 6, 40, 20) + np.where(protocol == 6, 20, 8)
    columns["observation_time_ns"] = start_ns + np.minimum(time_ns.astype(np.int64), end_ns - start_ns - 1)
    columns["ip_version"][:] = version
    columns["protocol_identifier"][:] = protocol
    columns["source_address"][:] = np.where(is_answer[:, None], hosts[1], hosts[0])
    columns["destination_address"][:] = np.where(is_answer[:, None], hosts[0], hosts[1])
    columns["source_transport_port"][:] = np.where(has_ports, np.where(is_answer, ports[1], ports[0]), 0)
    columns["destination_transport_port"][:] = np.where(has_ports, np.where(is_answer, ports[0], ports[1]), 0)
    columns["ip_header_length"][:] = np.where(version == 6, 40, 20)
    columns["tcp_header_length"][:] = np.where(protocol == 6, 20, 0)
    columns["ip_total_length"][:] = np.maximum(size[owner], least).clip(max=65_000)
    columns["ip_ttl"][:] = np.array(TTLS)[drawn["ttl"]][owner]
    columns["tcp_control_bits"][:] = np.where(protocol == 6, 16, 0)
    packets = PacketBatch.from_columns(columns)
    return packets.take(np.argsort(packets.observation_time_ns, kind="stable"))


def _inside(edges: NDArray[np.float64], bins: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    upper = np.append(edges[1:], edges[-1] * 2)
    return edges[bins] + (upper[bins] - edges[bins]) * rng.random(len(bins)) * 0.999


def _addresses(bucket: NDArray[np.int64], version: NDArray[np.int64], role: int) -> NDArray[np.uint8]:
    out = np.zeros((len(bucket), 16), np.uint8)
    is_4 = version == 4
    out[is_4, 10:14] = (255, 255, 10, role)
    out[~is_4, :2] = (0xFD, role)
    out[:, 14], out[:, 15] = 1 + bucket // 200, 1 + bucket % 200
    return out
