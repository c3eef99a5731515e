"""TrainJob: what a worker is told, and refusals that name the key."""

import json
from pathlib import Path

import pytest

from nsstream.errors import InputError
from nsstream.train.config import FitConfig
from nsstream.train.job import TrainJob

JOB = {"chunk": "c.arrow", "out": "models", "seed": 1, "steps": 5, "address_map": {"key_hex": "ab" * 32}}


def test_a_job_has_defaults_for_all_but_the_needful():
    job = TrainJob.parse(json.dumps(JOB))
    assert (job.chunk, job.before, job.parent, job.budget_s, job.threads) == (Path("c.arrow"), None, None, None, 1)
    assert job.model == "autoregressive"
    assert job.address_map.ipv4_range == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"colour": "red"}, "colour"),
        ({"model": "other"}, "model"),
        ({"chunk": None}, "chunk"),
        ({"out": 3}, "out"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"budget_s": 0}, "budget_s"),
        ({"threads": 0}, "threads"),
        ({"steps": None}, "steps or budget_s must be given"),
        ({"address_map": {}}, "address_map.key_hex"),
        ({"address_map": {"key_hex": "zz" * 32}}, "address_map.key_hex"),
        ({"address_map": {"key_hex": "ab" * 15}}, "address_map.key_hex"),
        ({"address_map": {"key_hex": "ab" * 65}}, "address_map.key_hex"),
        ({"address_map": {"key_hex": "ab" * 32, "salt": 1}}, "address_map.salt"),
    ],
)
def test_a_bad_job_is_refused_by_the_name_of_the_key(change, key):
    with pytest.raises(InputError, match="not a training job: .*" + key.replace(".", r"\.")):
        TrainJob.parse(json.dumps(JOB | change))


@pytest.mark.parametrize("missing", ["chunk", "out", "address_map"])
def test_a_job_without_what_it_needs_is_refused(missing):
    with pytest.raises(InputError, match=f"not a training job: {missing}"):
        TrainJob.parse(json.dumps({k: v for k, v in JOB.items() if k != missing}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"job"', "\x00", "{} {}"])
def test_what_is_no_object_is_refused(text):
    with pytest.raises(InputError, match="not a training job: "):
        TrainJob.parse(text)


def test_a_fit_needs_an_end():
    with pytest.raises(ValueError, match="steps or budget_s"):
        FitConfig()
