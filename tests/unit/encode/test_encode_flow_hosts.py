"""Hosts of conversations to tokens and back: nobody rare is named, and all come back as often, in the same roles."""

import numpy as np
import pytest

from nsstream.encode.flow_hosts import KNOWN, LAG_EDGES, REACHES, host_tokens, hosts_of_tokens
from nsstream.encode.flow_schema import FRESH, HOST_SLOTS, HOSTS, LAG, LAGS, PEERS


def made_pairs(rng, n=4000):
    """Clients, servers, what for, whether the server sends first, and slots of four hosts; some hosts are both."""
    client, server = rng.zipf(1.6, n) % 300, 200 + rng.zipf(1.4, n) % 600
    slot = np.full(800, -1)
    slot[[0, 1, 2, 201]] = [0, 1, 2, 3]
    service = server % 3
    return client, server, service, (service == 2).astype(np.int64), slot


def test_hosts_come_back_as_often_as_they_did_and_in_their_roles():
    rng = np.random.default_rng(3)
    client, server, service, server_first, slot = made_pairs(rng)
    family = np.zeros(len(client), np.int64)
    tokens = host_tokens(client, server, service, server_first, family, slot, LAG_EDGES)
    assert (tokens[0] < HOSTS).all()
    assert (tokens[1] < PEERS + HOSTS).all()
    share = (tokens[2] == 1).sum() / (tokens[2] >= 0).sum()
    found = hosts_of_tokens(*tokens[:2], service, server_first, family, LAG_EDGES, rng.random((len(client), 3)), share)
    np.testing.assert_array_equal(found[0][client <= 2], client[client <= 2])
    for hosts in ((client, server), found[:2]):
        assert (hosts[0] != hosts[1]).mean() > 0.97
    senders = [np.where(server_first, s, c) for c, s in ((client, server), found[:2])]
    asked = [np.where(server_first, c, s) for c, s in ((client, server), found[:2])]
    for measured, drawn in (senders, asked):
        popular = [np.bincount(np.unique(hosts, return_counts=True)[1], minlength=3) for hosts in (measured, drawn)]
        assert popular[1].sum() == pytest.approx(popular[0].sum(), rel=0.12)
        assert popular[1][1] == pytest.approx(popular[0][1], rel=0.2)
    pairs = [len(set(zip(a.tolist(), b.tolist(), strict=True))) for a, b in ((client, server), found[:2])]
    assert pairs[1] == pytest.approx(pairs[0], rel=0.25)  # of a client's peers the latest 16 are remembered


def test_who_was_named_in_the_other_role_alone_is_told_so():
    client, server = np.array([5, 7, 6]), np.array([6, 5, 8])
    zeros = np.zeros(3, np.int64)
    tokens = host_tokens(client, server, zeros, zeros, zeros, np.full(9, -1), LAG_EDGES)
    other = (KNOWN - 1) * REACHES
    assert tokens[0].tolist() == [FRESH, FRESH, LAG + other + 1]  # three rare hosts ago: from two to below four
    assert tokens[1].tolist() == [PEERS + FRESH, PEERS + LAG + other + 1, PEERS + FRESH]
    back = hosts_of_tokens(*tokens[:2], zeros, zeros, zeros, LAG_EDGES, np.full((3, 3), 0.99), 0.5)
    assert back[0][2] == back[1][0]
    assert back[1][1] == back[0][0]


def test_what_is_asked_for_and_not_there_is_another_of_its_kind_or_a_new_host():
    client = np.array([LAG + 5, FRESH, LAG, LAG + REACHES])
    server = np.array([3, PEERS + LAG + 9, PEERS + FRESH, PEERS + FRESH])
    zeros = np.zeros(4, np.int64)
    found = hosts_of_tokens(client, server, zeros, zeros, zeros, LAG_EDGES, np.zeros((4, 3)), 0.5)
    assert found[0][2] in found[0][:2]
    assert found[1][1] == found[1][0]
    assert found[0][3] == found[0][2]  # the only one that was named twice
    assert len(found[2]) == 5
    assert (np.concatenate(found[:2]) >= HOST_SLOTS).all()
    assert KNOWN * REACHES == LAGS
    assert len(LAG_EDGES) == REACHES + 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_servers_that_come_back_are_with_whom_they_were_or_with_another(share):
    """Two clients with slots ask forty servers, one after the other, and again when all are forgotten."""
    turns, servers = 4, 40
    client = np.tile(np.repeat([0, 1], servers // 2), turns)
    if share == 0.0:  # the other client's turn
        client = np.abs(client - np.repeat(np.arange(turns) % 2, servers))
    server = np.tile(2 + np.arange(servers), turns)
    zeros = np.zeros(len(client), np.int64)
    slot = np.append([0, 1], np.full(servers, -1))
    tokens = host_tokens(client, server, zeros, zeros, zeros, slot, LAG_EDGES)
    assert set(tokens[2].tolist()) == {-1, int(share)}
    chance = np.random.default_rng(5).random((len(client), 3))
    found = hosts_of_tokens(*tokens[:2], zeros, zeros, zeros, LAG_EDGES, chance, share)
    pairs = {tuple(pair) for pair in np.stack(found[:2], axis=1).tolist()}
    assert len(pairs) == (1 if share else 2) * servers
