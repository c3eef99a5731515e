"""Urns: what is counted stays within bounds, and counts from a stranger are refused."""

import numpy as np
import pytest

from nsstream.encode.schema import HOST_SLOTS
from nsstream.encode.urns import ASKED, CLASSES, MOST_ASKED, NAMES, OFTEN, Urns


def counted(initiator, service):
    zeros = np.zeros(len(initiator), np.int64)
    return Urns.fit(zeros, initiator, service, zeros, zeros, zeros > 0, zeros, zeros)


def test_the_pairs_that_have_peers_of_their_own_are_bounded_and_the_most_frequent():
    hosts, services = np.divmod(np.arange(40 * 1000), 1000)
    often = np.where(services < 300, 3 * OFTEN, OFTEN)
    urns = counted(np.repeat(hosts, often), np.repeat(services, often))
    asked = np.unique(urns.peers[:, 0])
    assert len(asked) <= MOST_ASKED
    own = asked[asked % ASKED != CLASSES]
    assert set((own % ASKED).tolist()) == set(range(300))
    assert len(own) == 40 * 300
    assert urns.peers[:, 2].sum() == often.sum()
    assert Urns.from_json(urns.as_json()).as_json() == urns.as_json()


def test_peers_for_more_than_that_are_refused():
    given = np.arange(MOST_ASKED + 1)
    assert given.max() < (HOST_SLOTS + 2) * ASKED
    peers = np.stack([given, 0 * given, 0 * given + 1], axis=1)
    with pytest.raises(ValueError, match="peers are counted for more than"):
        Urns.from_json(Urns.empty().as_json() | {"peers": peers.tolist()})


def test_a_token_that_no_attribute_has_is_refused():
    with pytest.raises(ValueError, match="hosts name what there is not"):
        Urns.from_json(Urns.empty().as_json() | {"hosts": [[0, HOST_SLOTS + 2, 1]]})


@pytest.mark.parametrize("name", NAMES)
def test_what_lacks_a_count_is_refused(name):
    with pytest.raises(LookupError):
        Urns.from_json({known: pairs for known, pairs in Urns.empty().as_json().items() if known != name})
