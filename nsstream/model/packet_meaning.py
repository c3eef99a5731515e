"""What a codec's packet tokens mean, as arrays that compiled drawing reads: octets, times, and what goes with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_kinds, size_tokens
from nsstream.encode.makeup import size_step
from nsstream.encode.schema import COUNTDOWNS, POSITIONS, SIZE_SLOTS
from nsstream.encode.tokens import countdown_token, position_token
from nsstream.model.frozen_packets import FrozenPackets
from nsstream.model.lawful import KindRules, kind_rules


class PacketMeaning(NamedTuple):
    """What a codec's packet tokens mean; k, s, g tokens may be drawn, as in `FrozenPackets`.

    Attributes:
        rules: of the k kinds.
        of_stack: (6, k) kinds that go with each stack.
        header: (k,) octets of headers.
        is_bare, is_tcp, own_clock: (k,) no octets behind the headers; TCP; timed by its own side.
        bare_size: (k,) the size token of the headers alone.
        exact: (s,) octets of a frequent size, -1 for a bin; octets: (s, QUANTILES) of the bins.
        size_step: (s,) of `makeup.size_step`.
        gap_active: (2, g) gaps that the chunk shows since the packet before, and since the own side's last.
        gap_shown: (k, 2, g) those that go with each kind.
        gap_shape: (k, 2, g) rows of `gap_inside`, (rows, QUANTILES) nanoseconds.
        gap_least, gap_middle, gap_end: (g,) edges of the gaps in nanoseconds, and what lies between.
        countdown, position: tokens by number, the last for all beyond.
        longest_own_ns: beyond every gap since the own side's last.
        end_ns: the first nanosecond after the chunk's last packet.
    """

    rules: KindRules
    of_stack: NDArray[np.bool_]
    header: NDArray[np.int64]
    is_bare: NDArray[np.bool_]
    is_tcp: NDArray[np.bool_]
    own_clock: NDArray[np.bool_]
    bare_size: NDArray[np.int64]
    exact: NDArray[np.int64]
    octets: NDArray[np.float64]
    size_step: NDArray[np.int64]
    gap_active: NDArray[np.bool_]
    gap_shown: NDArray[np.bool_]
    gap_shape: NDArray[np.int64]
    gap_inside: NDArray[np.float64]
    gap_least: NDArray[np.float64]
    gap_middle: NDArray[np.float64]
    gap_end: NDArray[np.float64]
    countdown: NDArray[np.int64]
    position: NDArray[np.int64]
    longest_own_ns: float
    end_ns: int


def meaning_of(codec: Codec, frozen: FrozenPackets) -> PacketMeaning:
    """What the tokens mean that a frozen network may draw."""
    kinds, sizes, gaps = frozen.kinds, frozen.sizes, frozen.gaps
    table = codec.kind.table()[kinds]
    header = table[:, 3] + table[:, 4]
    is_exact = sizes < SIZE_SLOTS
    exact = np.full(len(sizes), -1, np.int64)
    exact[is_exact] = codec.size.table()[sizes[is_exact], 0]
    octets = codec.octets.quantiles[np.where(is_exact, 0, sizes - SIZE_SLOTS)]
    clocks = codec.packet_gap, codec.own_gap
    edges = codec.packet_gap.grid.edges
    end = np.append(edges[1:], np.inf)
    own = codec.own_gap.is_active()
    shape = codec.gap_shapes.shape_table(kinds, gaps)  # behind the shapes of all kinds, by clock
    shape = np.where(shape < 0, np.arange(2 * len(gaps)).reshape(2, -1), shape + 2 * len(gaps))
    return PacketMeaning(
        rules=kind_rules(table, codec.endings),
        of_stack=np.ascontiguousarray(allowed_kinds(codec)[:, kinds]),
        header=header,
        is_bare=table[:, 5] == 0,
        is_tcp=table[:, 0] % 3 == 1,
        own_clock=codec.own_clock[kinds],
        bare_size=size_tokens(header, codec),
        exact=exact,
        octets=octets,
        size_step=size_step(np.where(is_exact, exact, octets.mean(axis=1).astype(np.int64))),
        gap_active=np.stack([bins.is_active()[gaps] for bins in clocks]),
        gap_shown=codec.gap_shapes.may_show(kinds, gaps),
        gap_shape=shape,
        gap_inside=np.concatenate([*(bins.quantiles[gaps] for bins in clocks), codec.gap_shapes.quantiles]),
        gap_least=edges[gaps],
        gap_middle=(edges[gaps] + np.minimum(end[gaps], 2 * edges[gaps])) / 2,
        gap_end=end[gaps],
        countdown=countdown_token(np.arange(_settles(countdown_token, COUNTDOWNS))),
        position=position_token(np.arange(_settles(position_token, POSITIONS))),
        longest_own_ns=float(end[own].max()) if own.any() else 0.0,
        end_ns=codec.last_ns + 1,
    )


def _settles(token: Callable[[NDArray[np.int64]], NDArray[np.int64]], count: int) -> int:
    """A number from which on a token of `count` values is the last one."""
    number = 1
    while token(np.array([number]))[0] < count - 1:
        number *= 2
    return number + 1
