"""Parallel: what several models of one vocabulary have in common, and codecs whose slots stay what they are."""

from dataclasses import replace

import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import VOCABULARIES, Codec
from nsstream.errors import TrainError
from nsstream.model.checkpoint import Model, new_networks
from nsstream.model.trees import Trees
from nsstream.train.inherit import rows_of
from nsstream.train.parallel import average


def model_of(codec: Codec, seed: int) -> Model:
    torch.manual_seed(seed)
    networks = new_networks()
    return Model(networks["attributes"], networks["packets"], networks["critic"], Trees.none(), codec, {})


@pytest.fixture
def closed_codec(codec: Codec) -> Codec:
    table = made_table(seed=3, count=40, minute=1)
    return Codec.fit(table, START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS, codec, is_closed=True)


def test_a_closed_codec_has_its_parent_s_slots_and_its_own_counts(codec: Codec, closed_codec: Codec):
    for name in VOCABULARIES:
        assert getattr(closed_codec, name).slots == getattr(codec, name).slots
    assert closed_codec.host.counts != codec.host.counts  # hosts come and go with the minutes
    assert closed_codec.own_clock[closed_codec.kind.is_active()].tolist() == (
        codec.own_clock[closed_codec.kind.is_active()].tolist()
    )
    assert closed_codec.packet_count < codec.packet_count


def test_the_average_of_one_is_itself(codec: Codec):
    model = model_of(codec, 1)
    merged = average([model])
    for name, module in (("attributes", model.attributes), ("packets", model.packets), ("critic", model.critic)):
        for key, value in module.state_dict().items():
            torch.testing.assert_close(merged[f"{name}.{key}"], value)


def test_weights_count_by_what_each_has_and_rows_by_who_shows_their_value(codec: Codec, closed_codec: Codec):
    models = [model_of(codec, 1), model_of(closed_codec, 2)]
    merged = average(models)
    counts = [model.codec.packet_count for model in models]
    key = "recur.weight_hh_l0"
    one, other = (model.packets.state_dict()[key] for model in models)
    torch.testing.assert_close(merged[f"packets.{key}"], (counts[0] * one + counts[1] * other) / sum(counts))
    states = [
        torch.nn.ModuleDict({"attributes": m.attributes, "packets": m.packets, "critic": m.critic}) for m in models
    ]
    tables = [list(rows_of("host", weights)) for weights in (merged, *(state.state_dict() for state in states))]
    shown = [torch.tensor(model.codec.host.counts) > 0 for model in models]
    only_first = torch.nonzero(shown[0] & ~shown[1]).flatten()
    both = torch.nonzero(shown[0] & shown[1]).flatten()
    assert len(only_first)
    assert len(both)
    for of_all, first, second in zip(*tables, strict=True):
        torch.testing.assert_close(of_all[only_first], first[only_first])
        assert not torch.equal(of_all[both], first[both])
        assert not torch.equal(of_all[both], second[both])


def test_models_of_other_slots_have_no_average(codec: Codec, later_codec: Codec):
    with pytest.raises(TrainError, match="different vocabularies"):
        average([model_of(codec, 1), model_of(later_codec, 2)])


def test_a_model_of_nothing_has_no_say(codec: Codec):
    silent = replace(codec, packet_count=0, profile=codec.profile * 0)
    for name in VOCABULARIES:
        held = getattr(silent, name)
        silent = replace(silent, **{name: replace(held, counts=(0,) * len(held))})
    model = model_of(codec, 1)
    merged = average([model, model_of(silent, 2)])
    for key, value in model.packets.state_dict().items():
        torch.testing.assert_close(merged[f"packets.{key}"], value)
