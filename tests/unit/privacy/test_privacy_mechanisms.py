import json

import pytest

from nsstream.errors import InputError
from nsstream.privacy import DiscreteGaussian, Gaussian, PureEpsilon, SampledGaussian, as_dicts, from_dicts

_ALL = (SampledGaussian(1.1, 0.01, 500), Gaussian(3.0), DiscreteGaussian(20.0, 4), PureEpsilon(0.1, 2))


def test_what_json_carried_is_what_was_written() -> None:
    assert from_dicts(json.loads(json.dumps(as_dicts(_ALL)))) == _ALL


@pytest.mark.parametrize(
    "values",
    [
        None,
        {"kind": "gaussian", "noise_multiplier": 1.0, "times": 1},  # no list
        [3],
        [{"noise_multiplier": 1.0}],
        [{"kind": "laplace", "noise_multiplier": 1.0}],
        [{"kind": "gaussian", "noise_multiplier": 1.0}],
        [{"kind": "gaussian", "noise_multiplier": 1.0, "times": 1, "more": 1}],
        [{"kind": "gaussian", "noise_multiplier": 0.0, "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": -1.0, "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": float("nan"), "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": float("inf"), "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": "1", "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": True, "times": 1}],
        [{"kind": "gaussian", "noise_multiplier": 1.0, "times": 1.5}],
        [{"kind": "gaussian", "noise_multiplier": 1.0, "times": -1}],
        [{"kind": "gaussian", "noise_multiplier": 1.0, "times": 10**12}],
        [{"kind": "sampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 1.1, "steps": 1}],
        [{"kind": "pure_epsilon", "epsilon": 0, "times": 1}],
    ],
)
def test_what_is_no_mechanism_is_refused(values: object) -> None:
    with pytest.raises(InputError):
        from_dicts(values)
