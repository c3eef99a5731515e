"""Drawer: checkpoint after checkpoint to conversations, open ones carried over from chunk to chunk.

A conversation that the previous chunk left open may go on: one that this chunk's model tags *continues from before*
takes the five-tuple of an open one with the same service. No five-tuple that could be chosen freely is used twice, as
long as it is remembered (`five_tuples`).

Several lines of chunks may be drawn side by side (the parts of a mix): each carries its own open conversations on, and
all keep off each other's five-tuples.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.draw.choose import CANDIDATES, draw_chosen
from nsstream.draw.doppelganger import draw_doppelganger
from nsstream.draw.five_tuples import UsedFiveTuples, hashes_instead, hashes_of
from nsstream.draw.keep_apart import keep_apart
from nsstream.encode.codec import Codec
from nsstream.encode.decoding import Endpoints
from nsstream.encode.encoding import sort_by_start
from nsstream.encode.schema import BLOCK_PORTS
from nsstream.encode.series import DecodedSeries
from nsstream.encode.series_codec import SERIES_SCHEMA_ID, SeriesCodec
from nsstream.model.checkpoint import Model, load_checkpoint, schema_of
from nsstream.model.conversations import draw_conversations
from nsstream.model.sample_packets import DrawnPackets
from nsstream.trace.conversations import ConversationTable
from nsstream.trace.fields import FIN, RST, TCP

FEW_PAIRS: Final = 12
MANY_PAIRS: Final = 256  # where a scan has left out little, what is left is rarely among the first
TRIES: Final = 64  # of another port
_ANSWERED, _ANY = -1, -2  # in place of a TTL

Key = tuple[bytes, bytes, int, int, int]
Select = Callable[[Endpoints], NDArray[np.bool_]]  # which of n conversations are wanted: (n,)


class Drawer:
    """Draws chunks in order.

    Args:
        seed: of all chance in the drawing.
        threads: CPU threads of torch; the same number gives the same twin.
        models_kept: how many models stay loaded, those used last.
        candidates: drawings of each short conversation, of which one is chosen.

    Attributes:
        candidates: as above; may be changed between two chunks.
    """

    def __init__(self, seed: int, threads: int = 1, models_kept: int = 2, candidates: int = CANDIDATES) -> None:
        torch.set_num_threads(threads)
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._models_kept, self.candidates = models_kept, candidates
        self._models: OrderedDict[Path, Model] = OrderedDict()
        self._open: dict[int, dict[tuple[int, int, int, int], list[Key]]] = {}
        self._used = UsedFiveTuples()

    def draw(
        self, checkpoint: Path, *, line: int = 0, turn: int | None = None, select: Select | None = None
    ) -> ConversationTable:
        """Draw the chunk that a checkpoint was trained on.

        Args:
            checkpoint: its directory.
            line: whose open conversations go on.
            turn: all chance is of seed, line and turn, whatever was drawn before; None: it goes on from there.
            select: which conversations are wanted; the packets of the others are not drawn. None: all.

        Raises StateError if the checkpoint cannot be loaded.
        """
        if turn is not None:
            self._rng = np.random.default_rng([self._seed, line, turn])
        draw = self._draw_series if schema_of(checkpoint) == SERIES_SCHEMA_ID else self._draw_model
        table = draw(checkpoint, line, select)
        self._open[line] = open_of(table)
        return table

    def _draw_model(self, checkpoint: Path, line: int, select: Select | None) -> ConversationTable:
        model = self._load(checkpoint)
        conversations = draw_conversations(model.attributes, model.codec, self._rng)
        share = 1.0
        if select is not None:
            rows = np.flatnonzero(select(conversations.ends))
            share = len(rows) / max(len(conversations), 1)
            conversations = conversations.take(rows)
        if not len(conversations):
            return ConversationTable.empty()
        packets = draw_chosen(model, conversations, self._rng, self.candidates, share)
        time_ns = keep_apart(packets.time_ns, model.codec.pace, self._rng, model.codec.last_ns)
        packets = replace(packets, time_ns=time_ns)
        return to_table(self._distinct(self._carry(conversations.ends, self._open.get(line, {}))), packets, model.codec)

    def _draw_series(self, checkpoint: Path, line: int, select: Select | None) -> ConversationTable:
        generator = torch.Generator().manual_seed(int(self._rng.integers(1 << 63)))
        series, codec = draw_doppelganger(checkpoint, self._rng, generator)
        ends = self._distinct(self._carry(series.ends, self._open.get(line, {})))
        table = to_table(ends, series, codec)
        return sort_by_start(table if select is None else table.take(np.flatnonzero(select(ends))))

    def hosts(self, checkpoint: Path) -> list[bytes]:
        """The addresses that a checkpoint's model knows, 16 octets each; raises StateError as `draw` does."""
        host = self._load(checkpoint).codec.host
        return [row.tobytes() for row in host.table()[host.is_active(), 1:].astype(np.uint8)]

    def forget(self) -> None:
        """Begin anew: nothing that is open goes on, no five-tuple was used."""
        self._open.clear()
        self._used.clear()

    def _load(self, checkpoint: Path) -> Model:
        model = self._models.get(checkpoint) or load_checkpoint(checkpoint)
        self._models[checkpoint] = model
        self._models.move_to_end(checkpoint)
        if len(self._models) > self._models_kept:
            self._models.popitem(last=False)
        return model

    def _carry(self, ends: Endpoints, left_open: dict[tuple[int, int, int, int], list[Key]]) -> Endpoints:
        """Give conversations that continue from before the five-tuple of an open one of their service."""
        initiator, responder = ends.initiator_address.copy(), ends.responder_address.copy()
        port = ends.initiator_port.copy()
        continues = ends.continues_from_before.copy()
        is_free = ends.has_free_port.copy()
        for i in np.flatnonzero(continues).tolist():
            waiting = left_open.get(_service(ends, i))
            if not waiting:
                continues[i] = 0
                continue
            key = waiting.pop(int(self._rng.integers(len(waiting))))
            initiator[i], responder[i] = np.frombuffer(key[0], np.uint8), np.frombuffer(key[1], np.uint8)
            port[i], is_free[i] = key[3], False
        return replace(
            ends, initiator_address=initiator, responder_address=responder, initiator_port=port,
            continues_from_before=continues, has_free_port=is_free,
        )  # fmt: skip

    def _distinct(self, ends: Endpoints) -> Endpoints:
        """Move what may move until no five-tuple stands twice."""
        ends = self._ask_otherwise(ends)
        port, used = ends.initiator_port.copy(), self._used
        may_move = (ends.continues_from_before == 0) & (ends.has_free_port | (ends.protocol_identifier == TCP))
        hashes = hashes_of(ends)
        i = used.add_until(hashes, may_move, 0)
        while i < len(port):
            for _ in range(TRIES):
                block = int(port[i]) // BLOCK_PORTS if ends.has_free_port[i] else int(self._rng.integers(48, 60))
                port[i] = max(1, block * BLOCK_PORTS + int(self._rng.integers(BLOCK_PORTS)))
                row = np.array([i])
                moved = int(hashes_instead(ends, i, row, port[row].astype(np.int64), row)[0])
                if moved not in used:
                    break
            used.add(moved)
            i = used.add_until(hashes, may_move, i + 1)
        return replace(ends, initiator_port=port)

    def _ask_otherwise(self, ends: Endpoints) -> Endpoints:
        """Give conversations whose five-tuple stands already another responder and port, if that is new.

        Both are of other conversations of the same initiator and port that are answered alike, or else of any, where
        this one is answered of any that is: who scans asks everybody, and nobody twice, and most never answer.
        """
        responder, port = ends.responder_address.copy(), ends.responder_port.copy()
        keys = hashes_of(ends).tolist()
        askers = _Askers(ends)
        is_fixed = ~(ends.has_free_port | (ends.continues_from_before != 0))
        seen: set[int] = set()
        for i, key in enumerate(keys):
            if is_fixed[i] and key in seen:
                for is_wide, tried in ((False, FEW_PAIRS), (False, MANY_PAIRS), (True, MANY_PAIRS)):
                    hosts, services = self._rng.choice(askers.like(i, is_wide=is_wide), (tried, 2)).T
                    ports = np.full(tried, ends.initiator_port[i], np.int64)
                    others = hashes_instead(ends, i, hosts, ports, services).tolist()
                    new = [k for k in range(tried) if others[k] not in seen and others[k] not in self._used]
                    if new:
                        host, service, key = hosts[new[0]], services[new[0]], others[new[0]]
                        responder[i], port[i] = ends.responder_address[host], ends.responder_port[service]
                        break
            seen.add(key)
        return replace(ends, responder_address=responder, responder_port=port)


class _Askers:
    """Which conversations are of the same initiator and port."""

    def __init__(self, ends: Endpoints) -> None:
        nobody, no_port = np.zeros_like(ends.responder_address), np.zeros_like(ends.responder_port)
        self._asker = hashes_of(replace(ends, responder_address=nobody, responder_port=no_port))
        self._order = np.argsort(self._asker, kind="stable")
        self._rising = self._asker[self._order]
        self._ttl = ends.responder_ttl.astype(np.int64)
        self._found: dict[tuple[int, int], NDArray[np.int64]] = {}

    def like(self, i: int, *, is_wide: bool) -> NDArray[np.int64]:
        """Those (k,), rising, that are answered with the same TTL as conversation i, or, widely, answered if it is."""
        asker, ttl = int(self._asker[i]), int(self._ttl[i])
        wanted = (_ANSWERED if ttl else _ANY) if is_wide else ttl
        if (asker, wanted) not in self._found:
            first, end = (int(np.searchsorted(self._rising, self._asker[i], side=side)) for side in ("left", "right"))
            rows = self._order[first:end]
            has = self._ttl[rows]
            fits = has > 0 if wanted == _ANSWERED else (wanted == _ANY) | (has == wanted)
            self._found[asker, wanted] = rows[fits]
        return self._found[asker, wanted]


def open_of(table: ConversationTable) -> dict[tuple[int, int, int, int], list[Key]]:
    """The five-tuples of a table that are open at its end, by service."""
    waiting: dict[tuple[int, int, int, int], list[Key]] = defaultdict(list)
    for i in np.flatnonzero(table.is_open_at_end).tolist():
        waiting[_service(table, i)].append(_key(table, i, int(table.initiator_port[i])))
    return dict(waiting)


def to_table(ends: Endpoints, packets: DrawnPackets | DecodedSeries, codec: Codec | SeriesCodec) -> ConversationTable:
    """Endpoints and packets as one table."""
    kinds = codec.kind.table()[packets.kind]
    flags, side = kinds[:, 2], kinds[:, 1]
    is_tcp = np.repeat(ends.protocol_identifier == TCP, np.diff(packets.packet_offset)) & (kinds[:, 0] % 3 == 1)
    begin = packets.packet_offset[:-1]
    ended = [np.add.reduceat(is_tcp & (flags & FIN > 0) & (side == s), begin) > 0 for s in (0, 1)]
    reset = np.add.reduceat(is_tcp & (flags & RST > 0), begin) > 0
    return ConversationTable(
        **{name: getattr(ends, name) for name in _SHARED},
        is_open_at_end=(~(reset | (ended[0] & ended[1]))).astype(np.uint8),
        packet_offset=packets.packet_offset,
        observation_time_ns=packets.time_ns,
        direction=side.astype(np.uint8),
        ip_total_length=packets.octets.astype(np.uint32),
        ip_header_length=kinds[:, 3].astype(np.uint16),
        control=flags.astype(np.uint16),
        tcp_header_length=kinds[:, 4].astype(np.uint8),
        tcp_event=kinds[:, 6].astype(np.uint8),
    )


_SHARED: Final = (
    "initiator_address", "responder_address", "ip_version", "protocol_identifier", "initiator_port", "responder_port",
    "initiator_ttl", "responder_ttl", "responder_syn_ttl", "initiator_class_of_service", "responder_class_of_service",
    "vlan_id", "is_fragment", "continues_from_before",
)  # fmt: skip


def _service(ends: Endpoints | ConversationTable, i: int) -> tuple[int, int, int, int]:
    return (
        int(ends.protocol_identifier[i]), int(ends.ip_version[i]), int(ends.is_fragment[i]), int(ends.responder_port[i])
    )  # fmt: skip


def _key(ends: Endpoints | ConversationTable, i: int, initiator_port: int) -> Key:
    return (
        ends.initiator_address[i].tobytes(), ends.responder_address[i].tobytes(), int(ends.protocol_identifier[i]),
        initiator_port, int(ends.responder_port[i]),
    )  # fmt: skip
