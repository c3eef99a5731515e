"""What compiled drawing says, judged by the torch networks that training saw: likely where they say so.

Each network is told what was drawn, token after token, as in training. Sharpened a thousandfold, it leaves drawing no
choice but its most likely token; as it is, what was drawn comes as often as it says.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from nsstream.encode.codec import slice_starts
from nsstream.encode.decoding import decode_endpoints
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, hosts_by_family, services_by_family
from nsstream.encode.profiles import Profiles
from nsstream.encode.schema import ATTRIBUTE_INDEX, GAPS, HOST_SLOTS, KINDS, MOMENTS, RARE_PORT, SERVICE_SLOTS, SLICES
from nsstream.encode.tokens import countdown_token, position_token, start_features, time_left_token
from nsstream.encode.urns import Urns
from nsstream.model.lawful import IS_FILLER, allow, begin_law, kind_rules, law_budget, say
from nsstream.model.networks import no_packet
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.sample_packets import draw_packets

SHARP = 1000.0
NEAR = 0.02  # of a logit before it is sharpened: e**-20 times as likely
SCARCE = -60.0  # log of the least share that drawing tells


@pytest.fixture(scope="module")
def codec(codec):
    """Without profiles of single conversations, so that the networks alone decide."""
    return dataclasses.replace(codec, waits=Profiles.empty(), makeup=Profiles.empty())


@pytest.fixture(scope="module")
def corrected(networks):
    """Networks whose corrections are not nothing."""
    torch.manual_seed(11)
    other = copy.deepcopy(networks)
    for half in ("attributes", "packets"):
        for table in other[half].correction:
            table.data.normal_(std=0.5)
    return other


@pytest.fixture(scope="module")
def sharp(corrected):
    other = copy.deepcopy(corrected)
    packets, attributes = other["packets"], other["attributes"]
    for head in (packets.kind_head, packets.size_head, packets.gap_head, *attributes.head):
        head.weight.data *= SHARP
        head.bias.data *= SHARP
    for table in (*packets.correction, *attributes.correction):
        table.data *= SHARP
    return other


@pytest.fixture(scope="module")
def own_timed(codec):
    """A codec in which some kinds keep their own side's time."""
    return dataclasses.replace(codec, own_clock=np.arange(len(codec.own_clock)) % 2 == 0, own_gap=codec.packet_gap)


@pytest.fixture(scope="module")
def given(networks, codec):
    attributes, start_ns = draw_attributes(networks["attributes"], codec, np.random.default_rng(1))
    stack = decode_endpoints(attributes, codec, np.random.default_rng(1)).stack
    counts = np.random.default_rng(2).integers(1, 40, len(attributes))
    return attributes, stack, start_ns, counts


def log_softmax(logits, may):
    return np.where(may, torch.from_numpy(np.where(may, logits, -np.inf)).log_softmax(-1).numpy(), -np.inf)


def log_sum(x):
    return np.logaddexp.reduce(x, axis=-1)


@torch.no_grad()
def packet_says(network, codec, given, drawn):
    """Log-probabilities of each packet's kind, of its size and gap where they are drawn; and what was drawn."""
    attributes, stack, start_ns, counts = given
    at = torch.arange(int(counts.max()))
    owner = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(owner)) - np.repeat(drawn.packet_offset[:-1], counts)
    before = np.where(step > 0, np.roll(drawn.time_ns, 1), start_ns[owner])
    said = np.zeros((len(counts), len(at), 3), np.int64)
    running = np.zeros_like(said)
    said[owner, step] = np.stack([drawn.kind, drawn.size, drawn.gap], -1)
    left_ns = codec.last_ns + 1 - before
    running[owner, step] = np.stack(
        [countdown_token(counts[owner] - step), position_token(step), time_left_token(left_ns)], -1
    )
    previous = np.concatenate([np.broadcast_to(no_packet(network.layout), (len(counts), 1, 3)), said[:, :-1]], 1)
    described = network.describe(torch.from_numpy(attributes))
    h, _ = network.recur(network.inputs(described, torch.from_numpy(previous), torch.from_numpy(running)))
    h, kind, size = h[owner, step], torch.from_numpy(drawn.kind), torch.from_numpy(drawn.size)
    kind_more, size_more, gap_more = (table[position_token(step)] for table in network.correction)
    kinds = (network.kind_head(h) + kind_more).double().numpy()
    sizes = (network.size_logits(h, kind) + size_more).double().numpy()
    gaps = (network.gap_logits(h, kind, size) + gap_more).double().numpy()

    otherwise = allowed_kinds(codec)[stack[owner]]
    lawful, is_filler = lawful_kinds(codec, given, drawn, owner, step)
    kinds = np.where(lawful, log_softmax(kinds, otherwise), -np.inf)
    share = np.maximum(log_sum(kinds), SCARCE)
    kinds = log_softmax(np.where(is_filler, kinds + share[:, None], kinds), lawful)
    has_size = codec.kind.table()[drawn.kind, 5] > 0
    known = np.concatenate([codec.size.is_active(), codec.octets.is_active()])
    timed = step > 0
    return {
        "kind": (kinds, drawn.kind),
        "size": (log_softmax(sizes, known)[has_size], drawn.size[has_size]),
        "gap": (soonest_of(gaps, *gaps_in_time(codec, drawn, step, before, left_ns))[timed], drawn.gap[timed]),
    }


def lawful_kinds(codec, given, drawn, owner, step):
    attributes, stack, _, counts = given
    is_silent = codec.ttl.table()[attributes[:, ATTRIBUTE_INDEX["ttl"]]][:, [0, -1]] == 0
    rows = begin_law(attributes[:, ATTRIBUTE_INDEX["continues_from_before"]] > 0, is_silent)
    rules, budget = kind_rules(codec.kind.table(), codec.endings), law_budget(codec.endings, None)
    lawful = np.zeros((len(owner), len(rules.traits)), np.bool_)
    allowed = allowed_kinds(codec)
    for i, (c, s) in enumerate(zip(owner, step, strict=True)):
        allow(rules, rows[c], counts[c] - s - 1, budget, allowed[stack[c]], lawful[i])
        assert lawful[i, drawn.kind[i]]
        say(rules, rows[c], budget, drawn.kind[i])
    return lawful, (rules.traits & IS_FILLER) > 0


def gaps_in_time(codec, drawn, step, before, left_ns):
    """The gaps (m, GAPS) that go with each packet's kind and clock, and end before the chunk does; and those over."""
    side = codec.kind.table()[drawn.kind, 1].clip(0, 1)
    last, elapsed = np.full(2, -1), np.zeros(len(step), np.int64)
    own = np.zeros(len(step), bool)
    edges = codec.packet_gap.grid.edges
    upper = np.append(edges[1:], np.inf)
    longest = upper[codec.own_gap.is_active()].max(initial=0)
    for i in range(len(step)):
        if step[i] == 0:
            last[:] = -1
        spoke = last[side[i]]
        own[i] = codec.own_clock[drawn.kind[i]] and spoke >= 0 and before[i] - spoke < longest
        elapsed[i] = before[i] - spoke if own[i] else 0
        last[side[i]] = drawn.time_ns[i]
    active = np.where(own[:, None], codec.own_gap.is_active(), codec.packet_gap.is_active())
    may = active & (upper > elapsed[:, None])
    in_time = may & (edges < (elapsed + left_ns)[:, None])
    of_kind = codec.gap_shapes.may_show(np.arange(KINDS), np.arange(GAPS))[drawn.kind, own.astype(int)]
    is_shown = (of_kind & in_time).any(1, keepdims=True)
    in_time = np.where(is_shown, of_kind & in_time, in_time)
    is_over = active & ~may & (of_kind | ~is_shown)
    return np.where(in_time.any(1, keepdims=True), in_time, may), is_over


def soonest_of(gaps, may, is_over):
    """Log-probabilities of gaps (m, GAPS): what is over already comes at once, as the soonest that may."""
    likely = log_softmax(gaps, may | is_over)
    rows = np.flatnonzero(may.any(1))
    soonest = may[rows].argmax(1)
    over = log_sum(np.where(is_over[rows], likely[rows], -np.inf))
    likely[rows, soonest] = np.logaddexp(likely[rows, soonest], over)
    return np.where(may, likely, -np.inf)


@torch.no_grad()
def attribute_says(network, codec, attributes, start_ns):
    """Log-probabilities of each attribute but of the first two conversations, where it is not named by another."""
    edges = slice_starts(codec.first_ns, codec.last_ns)
    where = np.repeat(np.arange(SLICES), codec.profile)
    rank = np.arange(len(where)) - np.searchsorted(where, where)
    count = codec.profile[where] - rank
    previous = np.where(rank > 0, np.roll(start_ns, 1), edges[where])
    left_ns = np.maximum(edges[where + 1] - previous, 1).astype(np.float64)
    features = start_features(where, count.astype(np.float64), left_ns, rank == 0, int(codec.slice_ns))
    room_ns = np.maximum(left_ns - (count - 1) * float(codec.start_gap.sample(1)[0]), left_ns / count)
    tokens = torch.from_numpy(attributes)
    said = network.summarise(tokens)
    history, _ = network.history(torch.cat([torch.zeros_like(said[:1]), said[:-1]])[None])
    known = history[0] + network.start(torch.from_numpy(features))
    is_rare = codec.service.table()[:SERVICE_SLOTS, 3][attributes[:, ATTRIBUTE_INDEX["service"]]] == RARE_PORT
    out = {}
    for name, i in ATTRIBUTE_INDEX.items():
        logits = network.logits(i, known, tokens) + network.correction[i][where * MOMENTS // SLICES]
        may = attributes_that_fit(codec, name, attributes, room_ns)
        rows = np.arange(2, len(attributes))  # the first is moved to the chunk's begin after the second has seen it
        if name.startswith("responder_port"):
            assert not attributes[~is_rare, i].any()
            rows = rows[is_rare[rows]]
        out[name] = log_softmax(logits.double().numpy(), may)[rows], attributes[rows, i]
        known = known + network.said[i](tokens[:, i])
    return out


def attributes_that_fit(codec, name, attributes, room_ns):
    may = np.repeat(allowed_attributes(codec)[ATTRIBUTE_INDEX[name]][None], len(attributes), axis=0)
    initiator = attributes[:, ATTRIBUTE_INDEX["initiator_host"]]
    family = hosts_by_family(codec)[1, initiator].astype(int)
    fits = may
    if name == "start_gap":
        edges = codec.start_gap.grid.edges
        fits = may & ((edges < room_ns[:, None]) | (edges == 0))
    elif name == "service":
        fits = may & services_by_family(codec)[family]
    elif name == "responder_host":
        fits = may & hosts_by_family(codec)[family]
        itself = (np.arange(may.shape[1]) == initiator[:, None]) & (initiator < HOST_SLOTS)[:, None]
        if not codec.talks_to_itself:
            fits = fits & ~itself
    return np.where(fits.any(1, keepdims=True), fits, may)


def assert_most_likely(says):
    """Nothing was drawn that is less likely than another, and mostly the others are less likely by far."""
    for name, (likely, token) in says.items():
        best = likely.max(1)
        assert ((best - likely[np.arange(len(token)), token]) / SHARP < NEAR).all(), name
        others = np.sort(likely, axis=1)[:, -2]
        assert ((best - others) / SHARP > NEAR).mean() > 0.5, name


def assert_as_often_as_said(says):
    """What was drawn comes as often as the sum of its probabilities; rare tokens are counted by the eighth."""
    judged = 0
    for name, (likely, token) in says.items():
        p = np.exp(likely)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
        assert (p[np.arange(len(token)), token] > 0).all(), name
        tokens = np.arange(p.shape[1])
        group = np.where(p.sum(0) > 10, tokens, len(tokens) + tokens % 8)
        p = np.stack([p[:, group == g].sum(1) for g in np.unique(group)], axis=1)
        came = np.array([(group[token] == g).sum() for g in np.unique(group)])
        spread = (p * (1 - p)).sum(0)
        score = (came - p.sum(0))[spread > 1] / np.sqrt(spread[spread > 1])
        if len(score):  # an attribute may have one token alone
            assert stats.chi2.sf((score**2).sum(), len(score)) > 1e-3, name
            judged += 1
    assert judged >= len(says) - 1


@pytest.mark.parametrize("which", ["codec", "own_timed"])
def test_the_sharpest_packets_are_the_likeliest(which, sharp, given, request):
    codec = request.getfixturevalue(which)
    drawn = draw_packets(sharp["packets"], codec, *given, np.random.default_rng(1))
    assert_most_likely(packet_says(sharp["packets"], codec, given, drawn))


@pytest.mark.parametrize("which", ["codec", "own_timed"])
def test_packets_come_as_often_as_the_network_says(which, corrected, given, request):
    codec = request.getfixturevalue(which)
    many = tuple(np.repeat(column, 4, axis=0) for column in given)
    drawn = draw_packets(corrected["packets"], codec, *many, np.random.default_rng(1))
    assert_as_often_as_said(packet_says(corrected["packets"], codec, many, drawn))


def crowded(codec, times):
    """The codec of a chunk with so many times the conversations in each slice, whose network alone decides."""
    return dataclasses.replace(codec, profile=codec.profile * times, urns=Urns.empty())


def test_the_sharpest_attributes_are_the_likeliest(sharp, codec):
    crowd = crowded(codec, 3)
    attributes, start_ns = draw_attributes(sharp["attributes"], crowd, np.random.default_rng(1))
    assert_most_likely(attribute_says(sharp["attributes"], crowd, attributes, start_ns))


def test_attributes_come_as_often_as_the_network_says(corrected, codec):
    crowd = crowded(codec, 3)
    attributes, start_ns = draw_attributes(corrected["attributes"], crowd, np.random.default_rng(1))
    assert_as_often_as_said(attribute_says(corrected["attributes"], crowd, attributes, start_ns))
