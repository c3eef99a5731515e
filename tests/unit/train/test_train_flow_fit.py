"""A flow model learns: batches hold what they say, held-out loss falls, paces slow down and stop."""

import numpy as np
import pytest
import torch
from made_flows import START_NS, made_flows

from nsstream.clock import SystemClock
from nsstream.draw.flow_drawer import Condition, fit_lengths, wanted_rows
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import encode_flows
from nsstream.errors import InputError, StateError, TrainError
from nsstream.model.flow_checkpoint import load_flow_checkpoint, new_flow_networks, save_flow_checkpoint, show_chunk
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records
from nsstream.train.config import FitConfig
from nsstream.train.flow_batches import WINDOW, choose_record_windows, cut_record_windows, record_batch
from nsstream.train.flow_fit import FlowFit
from nsstream.train.pace import MOST_DROPS, PATIENCE, Pace

END_NS = START_NS + 700 * 10**9


@pytest.fixture(scope="module")
def flows():
    return group_flows(made_flows(count=500))


@pytest.fixture(scope="module")
def flow_codec(flows):
    return FlowCodec.fit(flows, START_NS, END_NS)


@pytest.fixture(scope="module")
def flow_tokens(flows, flow_codec):
    return encode_flows(flows, flow_codec)


@pytest.fixture
def flow_networks(flow_codec):
    torch.manual_seed(3)
    networks = new_flow_networks()
    show_chunk(networks, flow_codec)
    return networks.eval()


def test_windows_hold_every_record_once(flow_tokens):
    windows = cut_record_windows(flow_tokens, np.arange(len(flow_tokens)))
    rows = np.concatenate([np.arange(first, last) for _, first, last in windows])
    np.testing.assert_array_equal(rows, np.arange(len(flow_tokens.fields)))
    assert (windows[:, 2] - windows[:, 1] <= WINDOW).all()


def test_a_batch_tells_the_record_before_its_window(flow_tokens):
    first = int(flow_tokens.offset[np.argmax(np.diff(flow_tokens.offset))])
    owner = int(np.argmax(np.diff(flow_tokens.offset)))
    _, before, fields, _, counts = record_batch(
        flow_tokens, np.array([[owner, first, first + 1], [owner, first + 1, first + 2]])
    )
    assert (before[0] == -1).all()
    np.testing.assert_array_equal(before[1].numpy(), flow_tokens.fields[first])
    np.testing.assert_array_equal(fields[1, 0].numpy(), flow_tokens.fields[first + 1])
    assert counts.all()


def test_batches_are_not_larger_than_asked(flow_tokens):
    rng = np.random.default_rng(0)
    windows = cut_record_windows(flow_tokens, np.arange(len(flow_tokens)))
    sizes = [np.sum(np.diff(choose_record_windows(windows, 64, rng)[:, 1:])) for _ in range(40)]
    assert 32 < np.mean(sizes) < 96


def test_held_out_loss_falls_and_a_checkpoint_draws_the_same(flows, flow_codec, flow_tokens, tmp_path):
    torch.manual_seed(3)
    networks = new_flow_networks()
    start_ns = flows.records.flow_start_ns
    config = FitConfig(steps=60)
    reports = []
    fit = FlowFit(networks, flow_tokens, start_ns, flow_codec, config, 3, SystemClock(), reports.append)
    with torch.no_grad():
        before = fit._conversation_loss(networks["conversations"].eval()), fit._record_loss(networks["records"].eval())
    fit.run()
    after = fit.facts()["held_out_nats"]
    assert after["conversation"] < 0.8 * before[0]
    assert after["record"] < 0.5 * before[1]
    assert reports[0].stage == "likelihood"
    saved = save_flow_checkpoint(tmp_path, networks, flow_codec, fit.facts())
    model = load_flow_checkpoint(saved)
    wanted = Wanted(np.arange(len(flow_tokens)))
    drawn = [
        draw_conversations(network, flow_codec, wanted, torch.Generator().manual_seed(5))
        for network in (networks["conversations"], model.conversations)
    ]
    np.testing.assert_array_equal(*drawn)
    (saved / "manifest.json").write_text("{}")
    with pytest.raises(StateError, match="format"):
        load_flow_checkpoint(saved)


def test_too_few_conversations_are_refused():
    flows = group_flows(made_flows(count=6))
    codec = FlowCodec.fit(flows, START_NS, END_NS)
    tokens = encode_flows(flows, codec)
    with pytest.raises(TrainError, match="too small"):
        FlowFit(
            new_flow_networks(), tokens, flows.records.flow_start_ns, codec, FitConfig(steps=1), 1, SystemClock(), print
        )


def test_records_are_drawn_in_time_and_as_many_as_asked(flow_codec, flow_tokens, flow_networks):
    counts = np.arange(len(flow_tokens)) % 7 + 1
    start_ns = np.full(len(flow_tokens), START_NS)
    drawn = draw_records(
        flow_networks["records"], flow_codec, flow_tokens.attributes, start_ns, counts,
        np.random.default_rng(1), torch.Generator().manual_seed(1),
    )  # fmt: skip
    np.testing.assert_array_equal(np.diff(drawn.offset), counts)
    first = np.zeros(len(drawn.fields), bool)
    first[drawn.offset[:-1]] = True
    assert (np.diff(drawn.start_ns)[~first[1:]] >= 0).all()
    assert drawn.start_ns.max() <= flow_codec.last_ns


class _Stuck:
    """A learner that never improves."""

    step_count = 0
    best_step = 0
    went_back = 0

    def back_to_best(self):
        self.went_back += 1


def test_a_pace_slows_down_at_a_plateau_and_then_ends():
    learner = _Stuck()
    pace = Pace(learner)
    rates = []
    while not pace.is_done:
        rates.append(pace.rate(0.1))
        learner.step_count += 1
    assert learner.went_back == MOST_DROPS + 1
    assert learner.step_count == (MOST_DROPS + 1) * PATIENCE + 1
    assert sorted(rates, reverse=True) == rates
    assert Pace(_Stuck()).rate(1.0) == pytest.approx(0.02)


def test_a_condition_asks_for_its_share_of_the_conversations(flow_codec):
    scans = int(flow_codec.labels[flow_codec.label_names.index("scan") + 1])
    assert len(wanted_rows(flow_codec, Condition()).rows) == flow_codec.conversation_count
    assert len(wanted_rows(flow_codec, Condition(label="scan")).rows) == scans
    assert len(wanted_rows(flow_codec, Condition(label="scan", scale=3.0)).rows) == 3 * scans
    with pytest.raises(InputError, match="protocol and port"):
        wanted_rows(flow_codec, Condition(port=53, protocol=6))


def test_lengths_are_the_chunks_own_and_keep_their_ranks(flow_codec):
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 9, flow_codec.conversation_count)
    fitted = fit_lengths(counts, flow_codec, rng)
    assert fitted.sum() == pytest.approx(flow_codec.record_count, rel=0.02)
    order = np.lexsort((fitted, counts))
    assert (np.diff(fitted[order]) >= 0).all()
