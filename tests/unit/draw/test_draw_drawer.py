"""Drawer: chunk after chunk, the same for the same seed, with open conversations carried over."""

import dataclasses
import gc
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from nsstream.draw import Drawer
from nsstream.encode.codec import slice_of
from nsstream.encode.decoding import Endpoints, decode_endpoints
from nsstream.encode.schema import BLOCK_PORTS, RARE_PORT, SLICES
from nsstream.errors import StateError
from nsstream.model.checkpoint import load_checkpoint
from nsstream.trace import PacketBatch
from nsstream.trace.fields import FIN, RST, TCP, UDP
from nsstream.trace.grouping import group_conversations


@pytest.fixture(scope="module")
def tables(checkpoints):
    drawer = Drawer(seed=1)
    return [drawer.draw(checkpoint) for checkpoint in checkpoints]


def keys_of(table):
    """Five-tuples with the IP version and whether it is fragments."""
    columns = (
        table.protocol_identifier,
        table.initiator_port,
        table.responder_port,
        table.is_fragment,
        table.ip_version,
    )
    return [
        (table.initiator_address[i].tobytes(), table.responder_address[i].tobytes(), *(int(c[i]) for c in columns))
        for i in range(len(table))
    ]


def equal(a, b):
    return all(np.array_equal(column, getattr(b, name)) for name, column in a.columns().items())


def test_the_same_seed_draws_the_same_and_another_draws_another(checkpoints, tables):
    drawer, other = Drawer(seed=1), Drawer(seed=2)
    for checkpoint, table in zip(checkpoints, tables, strict=True):
        assert equal(drawer.draw(checkpoint), table)
    assert not equal(other.draw(checkpoints[0]), tables[0])


def test_a_chunk_drawn_twice_is_drawn_differently(checkpoints):
    drawer = Drawer(seed=1)
    assert not equal(drawer.draw(checkpoints[0]), drawer.draw(checkpoints[0]))


def test_the_chunk_has_as_many_conversations_in_each_slice_as_it_had(checkpoints, tables):
    for checkpoint, table in zip(checkpoints, tables, strict=True):
        codec = load_checkpoint(checkpoint).codec
        first = table.observation_time_ns[table.packet_offset[:-1]]
        where = slice_of(first, codec.first_ns, codec.last_ns)
        np.testing.assert_array_equal(np.bincount(where, minlength=SLICES), codec.profile)
        assert table.observation_time_ns.min() == codec.first_ns >= codec.start_ns
        assert table.observation_time_ns.max() <= codec.last_ns < codec.end_ns


def test_times_within_a_conversation_never_fall(tables):
    for table in tables:
        rise = np.diff(table.observation_time_ns)
        rise[table.packet_offset[1:-1] - 1] = 0
        assert (rise >= 0).all()


def test_what_continues_was_left_open_by_the_chunk_before_and_each_goes_on_once(tables):
    assert not tables[0].continues_from_before.any()  # nothing was before
    for before, after in pairwise(tables):
        left = Counter(k for k, o in zip(keys_of(before), before.is_open_at_end, strict=True) if o)
        went_on = Counter(k for k, c in zip(keys_of(after), after.continues_from_before, strict=True) if c)
        assert went_on
        assert went_on <= left


def test_no_five_tuple_with_a_free_port_is_used_twice(tables):
    used = Counter()
    for table in tables:
        for key, continues, protocol in zip(
            keys_of(table), table.continues_from_before, table.protocol_identifier, strict=True
        ):
            if protocol == TCP and not key[-2] and not continues:
                used[key] += 1
    assert used
    assert max(used.values()) == 1


def test_tcp_is_open_until_both_sides_sent_fin_or_one_sent_rst(tables):
    table = tables[0]
    for i in range(len(table)):
        a, b = table.packet_offset[i : i + 2]
        flags, side = table.control[a:b], table.direction[a:b]
        is_tcp = table.protocol_identifier[i] == TCP and not table.is_fragment[i]
        finished = {int(s) for s, f in zip(side, flags, strict=True) if f & FIN}
        is_closed = is_tcp and (finished == {0, 1} or bool((flags & RST).any()))
        assert table.is_open_at_end[i] == (not is_closed)


def test_ports_stand_where_ports_belong(tables):
    for table in tables:
        has_none = ~np.isin(table.protocol_identifier, (6, 17, 132)) | (table.is_fragment > 0)
        assert not table.initiator_port[has_none].any()
        assert not table.responder_port[has_none].any()
        assert (~has_none).any()


def test_what_is_drawn_can_be_grouped_again_into_the_same_conversations(tables):
    """The drawn table as packets, taken in by the same grouping that reads captures."""
    table = tables[0]
    folded = [(frozenset([(k[0], k[3]), (k[1], k[4])]), k[2], k[5]) for k in keys_of(table)]
    kept = np.flatnonzero([count == 1 for count in map(Counter(folded).get, folded)])
    assert len(kept) > len(table) / 2
    table = table.take(kept)
    owner = np.repeat(np.arange(len(table)), table.packet_count)
    back = table.direction.astype(bool)
    columns = {name: column.copy() for name, column in PacketBatch.empty(len(owner)).columns().items()}
    for name in ("observation_time_ns", "ip_total_length", "ip_header_length"):
        columns[name] = getattr(table, name)
    for end, is_there in (("source", ~back), ("destination", back)):
        address = np.where(is_there[:, None], table.initiator_address[owner], table.responder_address[owner])
        columns[f"{end}_address"] = address
        columns[f"{end}_transport_port"] = np.where(is_there, table.initiator_port[owner], table.responder_port[owner])
    for name in ("ip_version", "protocol_identifier", "vlan_id"):
        columns[name] = getattr(table, name)[owner]
    columns["fragment_offset"] = table.is_fragment[owner].astype(np.uint16)
    again, _ = group_conversations(PacketBatch.from_columns(columns))
    assert sorted(again.packet_count.tolist()) == sorted(table.packet_count.tolist())


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(StateError, match="cannot read the checkpoint"):
        Drawer(seed=1).draw(tmp_path / "nothing")


def scan(count: int, hosts: int, ports: int) -> Endpoints:
    """One host that asks others from one port, at random, and so some twice."""
    rng = np.random.default_rng(1)
    columns = {f.name: np.zeros(count, np.uint8) for f in dataclasses.fields(Endpoints)}
    address = np.zeros((count, 16), np.uint8)
    columns |= {"initiator_address": address, "initiator_port": np.full(count, 40_000, np.uint16)}
    columns["responder_address"] = address.copy()
    columns["responder_address"][:, 15] = rng.integers(1, hosts + 1, count)
    columns["responder_port"] = rng.integers(1, ports + 1, count).astype(np.uint16)
    columns["protocol_identifier"] = np.full(count, UDP, np.uint8)
    columns["has_free_port"] = np.zeros(count, bool)
    return Endpoints(**columns)


def test_who_scans_asks_nobody_twice():
    asked = scan(300, hosts=20, ports=40)
    assert len(set(keys_of_ends(asked))) < 260
    ends = Drawer(seed=1)._distinct(asked)
    assert len(set(keys_of_ends(ends))) == 300
    assert set(ends.initiator_port.tolist()) == {40_000}
    assert set(ends.responder_port.tolist()) <= set(asked.responder_port.tolist())


def test_who_scans_nearly_everything_leaves_out_nothing_that_is_to_be_asked():
    asked = scan(800, hosts=4, ports=205)  # of 820 questions
    assert len(set(keys_of_ends(asked))) < 600
    ends = Drawer(seed=1)._distinct(asked)
    assert len(set(keys_of_ends(ends))) > 790


def test_who_is_asked_instead_answers_as_the_one_before_would_have():
    asked = scan(800, hosts=20, ports=80)
    answers = asked.responder_address[:, 15] <= 2
    asked = dataclasses.replace(asked, responder_ttl=np.where(answers, 64, 0).astype(np.uint8))
    ends = Drawer(seed=1)._distinct(asked)
    assert len(set(keys_of_ends(ends))) == 800
    assert ((ends.responder_address[:, 15] <= 2) == answers).all()


def test_who_never_answers_does_not_begin_to_though_those_who_do_were_asked_everything():
    asked = scan(1500, hosts=20, ports=50)
    ttl = np.where(asked.responder_address[:, 15] <= 2, 62 + asked.responder_address[:, 15], 0)
    asked = dataclasses.replace(asked, responder_ttl=ttl.astype(np.uint8))
    ends = Drawer(seed=1)._distinct(asked)
    assert (ends.responder_address[ttl > 0, 15] <= 2).all()


def test_where_everybody_has_been_asked_somebody_is_asked_again():
    ends = Drawer(seed=1)._distinct(scan(30, hosts=2, ports=3))
    assert len(set(keys_of_ends(ends))) <= 6
    assert len(ends.initiator_port) == 30


def keys_of_ends(ends):
    return [
        (a.tobytes(), b.tobytes(), int(p), int(q))
        for a, b, p, q in zip(
            ends.initiator_address, ends.responder_address, ends.initiator_port, ends.responder_port, strict=True
        )
    ]


def test_no_client_speaks_from_a_port_that_a_dissector_claims(checkpoints):
    model = load_checkpoint(checkpoints[0])
    attributes = np.zeros((4000, 11), np.int64)
    service = np.flatnonzero(model.codec.service.table()[:, 0] == TCP)[0]
    attributes[:, 3], attributes[:, 7] = service, 128 + 1629 // 1024
    ends = decode_endpoints(attributes, model.codec, np.random.default_rng(1))
    assert 1630 in ends.initiator_port.tolist()
    assert not {1628, 1629, 1745} & set(ends.initiator_port.tolist())


def test_a_drawer_does_not_grow_with_what_it_drew(checkpoints):
    drawer = Drawer(seed=1)

    def draw_chunks(turns):
        count = sum(len(drawer.draw(checkpoints[0], turn=turn)) for turn in turns)
        drawer._open.clear()  # as much as the last chunk left open, and no more
        gc.collect()
        return count, sys.getallocatedblocks()

    _, before = draw_chunks(range(3))  # what stays is loaded
    count, after = draw_chunks(range(3, 9))
    assert count > 500
    assert after - before < count  # a five-tuple that is kept as objects is five of them


def test_no_two_chunks_of_a_loop_repeat_a_flow_that_could_be_another(checkpoints):
    drawer, used = Drawer(seed=3), Counter()
    for turn in range(6):
        table = drawer.draw(checkpoints[0], turn=turn)
        keys = keys_of(table)
        is_new = (table.continues_from_before == 0) & (table.protocol_identifier == TCP) & (table.is_fragment == 0)
        used.update(keys[i] for i in np.flatnonzero(is_new))
    assert len(used) > 50
    assert max(used.values()) == 1


def test_nobody_is_asked_at_port_0(checkpoints):
    model = load_checkpoint(checkpoints[0])
    codec = model.codec
    slot = int(np.flatnonzero(codec.service.table()[:, 0] == TCP)[0])
    slots = list(codec.service.slots)
    slots[slot] = (*slots[slot][:3], RARE_PORT)
    rare = dataclasses.replace(codec, service=dataclasses.replace(codec.service, slots=tuple(slots)))
    attributes = np.zeros((10, 11), np.int64)
    attributes[:, 3] = slot
    ends = decode_endpoints(attributes, rare, np.random.default_rng(1))
    assert (ends.responder_port == 1).all()


def test_nobody_asks_from_port_0(checkpoints):
    codec = load_checkpoint(checkpoints[0]).codec
    zero = dataclasses.replace(codec, port=dataclasses.replace(codec.port, slots=((0,),)))
    attributes = np.zeros((10, 11), np.int64)
    attributes[:, 3] = int(np.flatnonzero(codec.service.table()[:, 0] == TCP)[0])
    ends = decode_endpoints(attributes, zero, np.random.default_rng(1))
    assert (ends.initiator_port // BLOCK_PORTS == codec.port_blocks.argmax()).all()
    assert ends.initiator_port.all()
    assert ends.has_free_port.all()
