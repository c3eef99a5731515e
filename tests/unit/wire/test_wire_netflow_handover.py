"""What one decoder knows of its exporters is known to the next: templates with their age, options, what was parked."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    NOW_S,
    OTHER_EXPORTER,
    arrays,
    data_set,
    ipfix,
    options_template_set,
    record,
    template_set,
    v5,
    v5_record,
    v9,
)

from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder
from nsstream.wire.netflow.handover import ROOM_BYTES

S = 10**9
DATA = data_set(256, record(BASE))
UPTIMES = (*BASE, (22, 4), (21, 4))


def successor(
    decoder: ExportDecoder, *, after_s: float = 0, is_final: bool = True, **options: Any
) -> tuple[ExportDecoder, int]:
    """A decoder that has taken over by way of JSON, and the time at which it did."""
    now_ns = NOW_NS + round(after_s * S)
    heir = ExportDecoder(**options)
    heir.take_over(json.loads(json.dumps(decoder.handover(is_final=is_final))), now_ns)
    heir.tally.check()
    return heir, now_ns


def decode(decoder: ExportDecoder, *messages: bytes, at_ns: int = NOW_NS, exporter: bytes = EXPORTER) -> FlowTable:
    flows = decoder.decode(*arrays(messages, [exporter] * len(messages), [at_ns] * len(messages)))
    decoder.tally.check()
    return flows


@pytest.mark.parametrize(("version", "message"), [(9, v9), (10, ipfix)])
def test_templates_are_known_to_the_successor_of_the_same_exporter_only(
    version: int, message: Callable[..., bytes]
) -> None:
    decoder = ExportDecoder()
    decode(decoder, message(template_set(version, 256, BASE)))
    heir, now_ns = successor(decoder, is_final=False)
    assert len(decode(heir, message(DATA), at_ns=now_ns)) == 1
    assert len(decode(heir, message(DATA), at_ns=now_ns, exporter=OTHER_EXPORTER)) == 0
    assert [(e.templates, str(e.address)) for e in heir.exporters] == [(1, "192.0.2.1"), (0, "192.0.2.2")]


def test_a_template_expires_as_if_nobody_had_been_restarted() -> None:
    decoder = ExportDecoder(template_lifetime_s=100)
    decode(decoder, v9(template_set(9, 256, BASE)))
    for after_s, rows in ((100, 1), (101, 0)):
        heir, now_ns = successor(decoder, after_s=after_s, template_lifetime_s=100)
        assert len(decode(heir, v9(DATA), at_ns=now_ns)) == rows
        once_more, _ = successor(heir, after_s=after_s + 1, template_lifetime_s=100)
        assert len(decode(once_more, v9(DATA), at_ns=now_ns + S)) == 0


def test_a_template_of_the_future_is_one_of_now() -> None:
    decoder = ExportDecoder(template_lifetime_s=100)
    decode(decoder, v9(template_set(9, 256, BASE)), at_ns=NOW_NS + 10**6 * S)
    heir, _ = successor(decoder, template_lifetime_s=100)
    assert len(decode(heir, v9(DATA), at_ns=NOW_NS + 101 * S)) == 0


def test_options_are_known_to_the_successor() -> None:
    decoder = ExportDecoder()
    decode(
        decoder,
        ipfix(template_set(10, 256, UPTIMES), options_template_set(10, 257, [(149, 4)], [(160, 8), (34, 4)])),
        ipfix(data_set(257, record([(149, 4), (160, 8), (34, 4)], {160: (NOW_S - 3600) * 1000, 34: 100}))),
    )
    heir, now_ns = successor(decoder, is_final=False)
    flows = decode(heir, ipfix(data_set(256, record(UPTIMES, {22: 3_500_000, 21: 3_590_000}))), at_ns=now_ns)
    assert flows.sampling_interval.tolist() == [100]
    assert flows.flow_end_ns.tolist() == [NOW_NS - 10 * S]
    assert flows.time_quality.tolist() == [0]


def test_what_is_parked_goes_along_at_the_end_and_is_read_when_its_template_comes() -> None:
    decoder = ExportDecoder()
    decode(decoder, v9(DATA), v9(DATA, DATA))
    assert successor(decoder, is_final=False)[0].tally.parked == 0
    heir, now_ns = successor(decoder, after_s=5)
    assert heir.tally.parked == 3
    assert len(decode(heir, v9(template_set(9, 256, BASE)), at_ns=now_ns)) == 3
    assert heir.tally.parked == 0
    late, _ = successor(decoder, after_s=31 * 60)
    assert (late.tally.parked, late.tally.malformed) == (0, {"no_template": 3})


def test_sequence_numbers_go_on_only_where_nothing_was_decoded_since() -> None:
    decoder = ExportDecoder()
    decode(decoder, v5(v5_record(), sequence=10))
    for is_final, lost in ((True, 3), (False, 0)):
        heir, now_ns = successor(decoder, is_final=is_final)
        decode(heir, v5(v5_record(), sequence=14), at_ns=now_ns)
        assert [e.estimated_lost for e in heir.exporters] == [lost]


def test_tcp_connections_hand_nothing_over() -> None:
    decoder = ExportDecoder()
    octets, offset, exporter, times_ns = arrays([ipfix(template_set(10, 256, BASE))])
    decoder.decode(octets, offset, exporter, times_ns, np.array([4444], np.uint16))
    handed = decoder.handover(is_final=True)
    assert (handed["sessions"], handed["templates"]) == ([], [])


def test_only_what_is_new_makes_another_revision() -> None:
    decoder = ExportDecoder()
    told = [decoder.revision]
    for sets in (
        [template_set(9, 256, BASE)],
        [template_set(9, 256, BASE), DATA],
        [template_set(9, 256, UPTIMES)],
        [options_template_set(9, 257, [(1, 4)], [(34, 4)])],
        [data_set(257, bytes(4) + (100).to_bytes(4, "big"))],
        [data_set(257, bytes(4) + (100).to_bytes(4, "big"))],
    ):
        decode(decoder, v9(*sets))
        told.append(decoder.revision)
    assert [b > a for a, b in pairwise(told)] == [True, False, True, True, True, False]


def test_what_is_handed_over_is_bounded_and_the_newest_stays() -> None:
    fields = [(96, 10)] * 500 + list(BASE)
    decoder = ExportDecoder(max_templates=10_000)
    for domain in range(12):
        for first in range(256, 512, 16):
            decode(decoder, v9(*(template_set(9, i, fields) for i in range(first, first + 16)), source_id=domain))
    handed = decoder.handover()
    assert len(json.dumps(handed)) <= ROOM_BYTES
    assert 1000 < len(handed["templates"]) < 12 * 256
    heir = ExportDecoder()
    heir.take_over(handed, NOW_NS)
    assert heir.exporters[-1].templates == 256
    assert heir.exporters[0].templates < 256


def one_of_each() -> dict[str, Any]:
    decoder = ExportDecoder()
    decode(decoder, v9(template_set(9, 256, BASE)), v9(data_set(300, bytes(8))))
    return decoder.handover(is_final=True)


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda v: v.update(format="other"), "'other' version 1"),
        (lambda v: v.update(version=2), "version 2"),
        (lambda v: v.pop("sessions"), "sessions must be a list, got None"),
        (lambda v: v["sessions"].append(v["sessions"][0]), "a session twice"),
        (lambda v: v["sessions"][0].update(exporter="nowhere"), "session 0: 'nowhere' is no exporter"),
        (lambda v: v["sessions"][0].update(domain=1 << 32), "session 0: domain must be an integer"),
        (lambda v: v["sessions"][0].update(samplers=[[i, 1] for i in range(257)]), "at most 256 pairs"),
        (lambda v: v["templates"][0].update(session=1), "template 0: session must be"),
        (lambda v: v["templates"][0].update(set_id=2), "set 2 is not of version 9"),
        (lambda v: v["templates"][0].update(octets="????"), "template 0: octets must be base64"),
        (lambda v: v["templates"][0].update(octets="AQAAAQABAA=="), "template 0: its octets are no record"),
        (lambda v: v["templates"][0].update(announced_ns=True), "announced_ns must be an integer"),
        (lambda v: v["parked"][0].update(template_id=255), "template_id must be an integer from 256"),
        (lambda v: v["parked"][0].update(message=[9]), "a message has 8 facts, got 1"),
    ],
)
def test_what_is_broken_is_refused_by_its_name_and_nothing_of_it_is_known(
    change: Callable[[dict[str, Any]], object], mention: str
) -> None:
    handed = one_of_each()
    ExportDecoder().take_over(handed, NOW_NS)
    change(handed)
    decoder = ExportDecoder()
    with pytest.raises(WireError) as refused:
        decoder.take_over(handed, NOW_NS)
    assert mention in str(refused.value)
    assert not decoder.exporters
    assert decoder.tally.offered == 0


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"format": "nsstream-exporters", "version": 1}])
def test_what_is_no_handover_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        ExportDecoder().take_over(value, NOW_NS)
