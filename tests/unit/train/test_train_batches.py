"""Batches: every packet learned once an epoch, padding never, run-up read and not learned."""

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, batch_of, packet

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import no_packet
from nsstream.trace.grouping import group_conversations
from nsstream.train.batches import LEAD, WINDOW, cut_windows, packet_batch

LENGTHS = [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 7]


@pytest.fixture(scope="module")
def tokens():
    rows = [
        packet(c + 90 * i, (f"192.0.2.{c + 1}", 5000), octets=int(10 + i % 7))
        for c, length in enumerate(LENGTHS)
        for i in range(length)
    ]
    table, _ = group_conversations(batch_of(rows))
    assert table.packet_count.tolist() == LENGTHS
    return encode(table, Codec.fit(table, START_NS, START_NS + MINUTE_NS))


def every(tokens):
    return cut_windows(tokens, np.arange(len(tokens)))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5], [4, 2], []])
def test_windows_cover_every_packet_of_their_conversations_once(tokens, rows):
    windows = cut_windows(tokens, np.array(rows, np.int64))
    learned = [i for a, b in zip(windows.learn_from, windows.end, strict=True) for i in range(a, b)]
    wanted = [i for row in rows for i in range(tokens.packet_offset[row], tokens.packet_offset[row + 1])]
    assert learned == wanted


def test_a_window_is_bounded_and_its_run_up_is_of_the_same_conversation(tokens):
    windows = every(tokens)
    assert (windows.end - windows.learn_from <= WINDOW).all()
    begin = tokens.packet_offset[windows.owner]
    np.testing.assert_array_equal(windows.read_from, np.maximum(windows.learn_from - LEAD, begin))
    assert (windows.end <= tokens.packet_offset[windows.owner + 1]).all()


def test_a_batch_learns_what_its_windows_say_and_nothing_else(tokens):
    windows = every(tokens)
    chosen = np.arange(len(windows))[::-1].copy()
    batch = packet_batch(tokens, windows, chosen, LAYOUT)
    for i, w in enumerate(chosen):
        read, learn, end = int(windows.read_from[w]), int(windows.learn_from[w]), int(windows.end[w])
        at = np.arange(read, end)
        n = len(at)
        assert batch.counts[i].nonzero()[:, 0].tolist() == list(range(learn - read, n))
        for name in ("kind", "size", "gap"):
            assert getattr(batch, name)[i, :n].tolist() == getattr(tokens, name)[at].tolist()
            assert not getattr(batch, name)[i, n:].any()
        running = np.stack([tokens.countdown[at], tokens.position[at], tokens.time_left[at]], axis=1)
        assert batch.running[i, :n].tolist() == running.tolist()
        first = int(tokens.packet_offset[windows.owner[w]])
        before = no_packet(LAYOUT)
        if read > first:
            before = tokens.kind[read - 1], tokens.size[read - 1], tokens.gap[read - 1]
        assert tuple(batch.before[i].tolist()) == tuple(int(x) for x in before)
        needs_gap = batch.needs_gap[i].nonzero()[:, 0] + read
        assert needs_gap.tolist() == [j for j in range(learn, end) if j > first]
        assert not (batch.needs_size[i] & ~batch.counts[i]).any()
        assert batch.attributes[i].tolist() == tokens.attributes[windows.owner[w]].tolist()


@pytest.mark.parametrize("chosen", [[0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_windows_learned_together_cost_what_they_cost_alone(tokens, networks, chosen):
    network = networks["packets"]
    windows = every(tokens)
    allowed = torch.ones(len(chosen), LAYOUT.kinds, dtype=torch.bool)
    together = network.loss(packet_batch(tokens, windows, np.array(chosen), LAYOUT), allowed).sum(-1)
    alone = [network.loss(packet_batch(tokens, windows, np.array([c]), LAYOUT), allowed[:1]).sum() for c in chosen]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-3)
