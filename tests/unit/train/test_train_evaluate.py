"""Evaluate: the conversations that it judges by are those that the fits hold out."""

import json

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.clock import ManualClock
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.errors import InputError
from nsstream.model.checkpoint import new_networks
from nsstream.model.portrait import portrait_of_measured
from nsstream.train.config import FitConfig
from nsstream.train.evaluate import EvaluateJob, HeldOut, figures_of, held_out_rows
from nsstream.train.fit import Fit

JOB = {"chunk": "a.arrow", "candidate": "m", "seed": 1, "address_map": {"key_hex": "5a" * 32}}


@pytest.mark.parametrize("seed", [0, 3, 2**62])
def test_the_rows_are_those_that_a_fit_holds_out(seed: int):
    table = made_table()
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS, None)
    tokens = encode(table, codec)
    torch.manual_seed(0)
    portraits = portrait_of_measured(table, tokens, codec)
    fit = Fit(new_networks(), tokens, portraits, codec, FitConfig(steps=1), seed, ManualClock(), print)
    np.testing.assert_array_equal(np.flatnonzero(fit._is_held.numpy()), held_out_rows(tokens, seed))


def test_loss_is_of_a_whole_conversation_and_drift_of_the_parent_alone():
    mine, theirs = HeldOut(2.0, 3.0, 4.0), HeldOut(4.0, 4.0, 4.0)
    manifest = {"held_out_nats": {"conversation": 2.0, "packet": 3.5}}
    assert figures_of(mine, theirs, manifest, "packet") == {
        "loss": 14.0, "nats_a_packet": 3.0, "nats_a_conversation": 2.0, "parent_loss": 20.0, "ratio": 0.7,
        "drift": 20.0 / 16.0,
    }  # fmt: skip
    assert figures_of(mine, theirs, {}, "packet")["drift"] is None
    assert figures_of(mine, None, None, "packet")["ratio"] is None


def test_a_job_that_is_none_names_the_key():
    assert EvaluateJob.parse(json.dumps(JOB)).drawn_conversations == 2000
    with pytest.raises(InputError, match="not an evaluation: seed: "):
        EvaluateJob.parse(json.dumps(JOB | {"seed": -1}))
    with pytest.raises(InputError, match="not an evaluation: "):
        EvaluateJob.parse("nonsense")
