"""One likelihood a conversation: that of evaluation, and no less for what a codec has no word for."""

import dataclasses

import numpy as np
import torch

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import sort_by_start
from nsstream.model.checkpoint import Model, new_networks
from nsstream.model.trees import Trees
from nsstream.train.likelihood import IMPOSSIBLE, conversation_nats


def made_model(codec: Codec) -> Model:
    torch.manual_seed(7)
    networks = new_networks()
    return Model(networks["attributes"], networks["packets"], networks["critic"], Trees.none(), codec, {})


def test_each_conversation_has_a_likelihood_and_longer_ones_are_less_likely(table, codec) -> None:
    nats = conversation_nats(made_model(codec), table)
    assert nats.total.shape == (len(table),)
    assert np.isfinite(nats.total).all()
    assert (nats.attributes > 0).all()
    assert (nats.total < IMPOSSIBLE).all()  # the codec is of this table
    assert np.corrcoef(nats.packets, table.packet_count)[0, 1] > 0.9  # of networks that learned nothing
    assert np.array_equal(nats.total, conversation_nats(made_model(codec), table).total)


def test_what_was_not_learned_is_scored_beside_what_was(table, codec) -> None:
    strangers = dataclasses.replace(
        table.take(np.arange(3)),
        initiator_port=np.array([50_001, 50_002, 50_003], np.uint16),
        responder_port=np.array([40_001, 40_002, 40_003], np.uint16),
    )
    both = sort_by_start(type(table).concatenate([table, strangers]))
    nats = conversation_nats(made_model(codec), both)
    assert len(nats.total) == len(table) + 3
    assert np.isfinite(nats.total).all()
