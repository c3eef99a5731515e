"""What the noisy vector says of private flow records (`private_flow_counts`): post-processing, and free.

A number is believed beyond what noise alone is likely to make; between that and nothing it is weighed with what the
network draws by itself (`private_settle`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_schema import PEERS
from nsstream.encode.public_flow_codec import ROLE_SLOTS, SERVERS, V4_SLOTS
from nsstream.train.private_flow_counts import BUSY, SIZES, sensitivity
from nsstream.train.private_settle import hidden

QUIET: Final = 10.0  # variance of the noise by conversations of a bucket, above which they tell nothing of hosts
AGAIN: Final = 2.0  # conversations that a host without a slot is then taken to have,
MOST_AGAIN: Final = 64.0  # and ever at most
_QUARTILES: Final = 1.349  # standard deviations between the quartiles of normal numbers
_FEWEST: Final = 16  # conversations that a chunk is taken to have at least
_MOST: Final = 1 << 21


@dataclass(frozen=True)
class FlowCounts:
    """The noisy vector by block, and the noise's standard deviation; nothing else is known of the records.

    Attributes:
        blocks: as of `SIZES`, floats.
        std: of each number.
        units: how many there are about.
        total: conversations, all that units have.
        clients, servers: (ROLE_SLOTS,) conversations of the popular host of each bucket, 0 where there is none.
        busy: (k,) conversations of each other client, the busiest first, as far as the noise lets that be seen.
        asked: the same of servers.
        found: (k,) slots of client ports that were found (`private_flow_ports`).
    """

    blocks: dict[str, NDArray[np.float64]]
    std: float
    units: float
    total: int
    clients: NDArray[np.float64]
    servers: NDArray[np.float64]
    busy: NDArray[np.int64]
    asked: NDArray[np.int64]
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def read_counts(
    noisy: NDArray[np.int64], noise_multiplier: float, unit: Literal["host", "flow"], most: int
) -> FlowCounts:
    """What the noisy vector says."""
    std = noise_multiplier * sensitivity(unit, most)
    parts = np.split(noisy.astype(np.float64), np.cumsum(list(SIZES.values()))[:-1])
    blocks = dict(zip(SIZES, parts, strict=True))
    kept = float(blocks["conversations"][0])
    servers = popular_hosts(blocks["server"][PEERS + SERVERS : PEERS + 2 * SERVERS], std)
    asked = _others(_expanded(blocks["busy_servers"], std), servers, kept)
    if unit == "host":
        number = blocks["busy_clients"] / most
        clients, units, busy = np.zeros(ROLE_SLOTS), float(number.sum()), _expanded(number, std / most)
        total = max(kept, float(busy.sum()))
    else:
        clients = popular_hosts(blocks["clients"], std)
        units, busy, total = kept, _others(_expanded(blocks["busy_clients"], std), clients, kept), kept
    return FlowCounts(
        blocks=blocks,
        std=std,
        units=float(np.clip(units, 1.0, _MOST)),
        total=int(np.clip(round(total), _FEWEST, _MOST)),
        clients=clients,
        servers=servers,
        busy=busy[:_MOST],
        asked=asked[:_MOST],
    )


def popular_hosts(buckets: NDArray[np.float64], std: float) -> NDArray[np.float64]:
    """How often the popular host of each bucket of a role comes (ROLE_SLOTS,)."""
    return np.concatenate([popularity(part, std)[0] for part in np.split(buckets, [V4_SLOTS])])


def popularity(buckets: NDArray[np.float64], std: float) -> tuple[NDArray[np.float64], float, float]:
    """How often each bucket's popular host comes (b,); conversations of all other hosts, and of one of these.

    Buckets differ by more than chance and noise where hosts come again.
    """
    low, middle, high = np.quantile(buckets, (0.25, 0.5, 0.75))
    usual = max(float(middle), 1e-9)
    variance = float((high - low) / _QUARTILES) ** 2 - std**2
    size = AGAIN if std**2 > QUIET * usual else float(np.clip(variance / usual, 1.0, MOST_AGAIN))
    beyond = buckets - usual
    popular = np.where(beyond > hidden(std, len(buckets)) + 3 * np.sqrt(usual * size), beyond, 0.0)
    return popular, max(float(buckets.sum() - popular.sum()), 0.0), size


def rare_servers(counts: FlowCounts) -> tuple[float, float]:
    """Conversations with servers that have no slot: with one that was not asked before, and with one that was."""
    buckets = counts.blocks["server"][PEERS + SERVERS : PEERS + 2 * SERVERS]
    fresh = others = 0.0
    for part in np.split(buckets, [V4_SLOTS]):
        _, of_others, size = popularity(part, counts.std)
        fresh, others = fresh + of_others / size, others + of_others
    if len(counts.asked):
        fresh = min(float(len(counts.asked)), others)
    return fresh, others - fresh


def _expanded(hosts: NDArray[np.float64], std: float) -> NDArray[np.int64]:
    """Conversations of each host (k,), the busiest first, by noisy numbers of hosts (`BUSY`), where these are seen."""
    sizes = np.sqrt(BUSY * np.append(BUSY[1:] - 1, 2 * BUSY[-1]).astype(np.float64))
    believed = np.rint(np.where(hosts > hidden(std, len(BUSY)), hosts, 0.0)).astype(np.int64)
    return np.repeat(np.rint(sizes).astype(np.int64), believed)[::-1]


def _others(few: NDArray[np.int64], popular: NDArray[np.float64], total: float) -> NDArray[np.int64]:
    """Conversations of each host that is not popular (k,), the busiest first; none where those of few are not seen.

    Between hosts of few conversations and popular ones are some that neither count shows: they have what is left.
    """
    if not len(few):
        return few
    often = popular[popular > 0]
    few = few[few < often.min(initial=_MOST)]
    most = max(int(few.max(initial=1)), 1)
    between = math.sqrt(most * float(often.min(initial=most)))
    unseen = max(round((total - float(few.sum()) - float(often.sum())) / between), 0)
    return np.sort(np.concatenate([few, np.full(min(unseen, _MOST), round(between))]))[::-1]
