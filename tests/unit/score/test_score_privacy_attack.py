"""Attacks on twins that were made so that the truth about them is known."""

import json

import numpy as np
import pytest

from nsstream.score.privacy import Privacy, Verdict, attack_packets
from nsstream.score.privacy.copies import recurs, sample
from nsstream.trace import PacketBatch

SHIFT_NS = 3_600_000_000_000
NAMES = ("copies", "membership", "addresses", "hosts", "timing")


def changed(packets: PacketBatch, **columns: np.ndarray) -> PacketBatch:
    return PacketBatch.from_columns({k: v.copy() for k, v in packets.columns().items()} | columns)


def elsewhere(packets: PacketBatch, seed: int = 0) -> PacketBatch:
    """The same packets an hour later, every host at another address; see `there`."""
    return changed(
        packets,
        observation_time_ns=packets.observation_time_ns + SHIFT_NS,
        source_address=there(packets.source_address),
        destination_address=there(packets.destination_address),
    )


def there(addresses: np.ndarray) -> np.ndarray:
    """10.0.0.x to 10.77.0.y, y anyhow."""
    out = addresses.copy()
    out[:, 13] = 77
    out[:, 15] = np.random.default_rng(5).permutation(254)[addresses[:, 15].astype(int) - 1] + 1
    return out


def some_of(packets: PacketBatch, share: float) -> PacketBatch:
    """The packets of a share of the conversations, chosen by their ephemeral port."""
    port = np.maximum(packets.source_transport_port, packets.destination_transport_port)
    return packets.take(port % 1000 < 1000 * share)


def attack(real, twin, held_out=None, mapping=None) -> Privacy:
    return attack_packets(real, twin, held_out, mapping, np.random.default_rng(0))


def verdicts(privacy: Privacy) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in privacy.findings}


@pytest.fixture(scope="module")
def real(make_varied) -> PacketBatch:
    return make_varied(1)


@pytest.fixture(scope="module")
def held_out(make_varied) -> PacketBatch:
    return make_varied(2)


def test_an_independent_twin_leaks_nothing(real, held_out, make_varied) -> None:
    found = attack(real, elsewhere(make_varied(3)), held_out)
    assert [finding.name for finding in found.findings] == list(NAMES)
    assert not found.leaks
    assert verdicts(found)["membership"] is Verdict.CLEAR
    figures = found.findings[1].figures
    assert figures["nearest"]["interval"][0] < 0.5 < figures["nearest"]["interval"][1]
    assert figures["density"]["interval"][0] < 0.5 < figures["density"]["interval"][1]


def test_a_twin_that_copies_a_tenth_is_found_out(real, held_out, make_varied) -> None:
    copied = some_of(real, 0.1)
    found = attack(real, elsewhere(PacketBatch.concatenate([make_varied(3), copied])), held_out)
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["copies"].verdict is Verdict.LEAK
    share = by_name["copies"].figures["twin"]["one_off"]["share"]
    assert 0.05 < share < 0.15  # about a tenth of its flows are copies
    assert by_name["copies"].figures["base"]["one_off"]["share"] == 0
    assert by_name["timing"].verdict is Verdict.LEAK
    assert by_name["addresses"].verdict is Verdict.CLEAR


def test_a_twin_that_permutes_hosts_and_hours_is_a_copy_and_tells_its_members(real, held_out) -> None:
    found = attack(real, elsewhere(real), held_out, there)
    assert {finding.name for finding in found.leaks} == {"copies", "membership", "hosts", "timing"}
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["copies"].figures["twin"]["exact"]["share"] == 1
    assert by_name["membership"].figures["nearest"]["auc"] > 0.9
    assert by_name["hosts"].figures["by_profile"]["share"] > 0.9


def test_sizes_changed_a_little_are_near_copies_and_no_exact_ones(real) -> None:
    larger = changed(real, ip_total_length=(real.ip_total_length * 1.02 + 1).astype(np.uint32))
    found = attack(real, elsewhere(larger)).findings[0]
    assert found.verdict is Verdict.LEAK
    assert found.figures["in_all"]["exact"]["share"] < 0.05
    assert found.figures["in_all"]["near"]["share"] > 0.9


def test_copied_times_are_found_without_sizes(real) -> None:
    order = np.random.default_rng(1).permutation(len(real))
    found = attack(real, elsewhere(changed(real, ip_total_length=real.ip_total_length[order])))
    assert {finding.name for finding in found.leaks} == {"timing"}


def test_kept_addresses_are_named(real, make_varied) -> None:
    found = attack(real, make_varied(3))
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["addresses"].verdict is Verdict.LEAK
    assert "10.0.0.100" in by_name["addresses"].figures["some"] or len(by_name["addresses"].figures["some"]) == 10
    assert by_name["hosts"].verdict is not Verdict.OPEN  # who kept its address is known without a key


def test_hosts_that_do_anything_are_not_told_by_what_they_do(real, make_varied) -> None:
    twin = make_varied(3)
    rng = np.random.default_rng(7)
    client = twin.source_address[:, 15] < 100
    shuffled = changed(twin)
    columns = {k: v.copy() for k, v in shuffled.columns().items()}
    who = rng.integers(1, 41, len(twin)).astype(np.uint8)
    columns["source_address"][client, 15] = who[client]
    columns["destination_address"][~client, 15] = who[~client]
    twin = elsewhere(PacketBatch.from_columns(columns))
    found = {finding.name: finding for finding in attack(real, twin, None, there).findings}["hosts"]
    assert found.figures["by_volume"]["share"] < 0.3
    assert found.figures["by_guessing"] < 0.05


def test_without_held_out_traffic_or_key_it_says_what_it_cannot_judge(real, make_varied) -> None:
    found = attack(real, elsewhere(make_varied(3)))
    assert verdicts(found)["membership"] is Verdict.OPEN
    assert verdicts(found)["hosts"] is Verdict.OPEN
    words = {finding.name: finding.words for finding in found.findings}
    assert "--held-out" in words["membership"]
    assert "--address-key" in words["hosts"]
    assert any("prove" in what for what in found.unseen)


def test_held_out_traffic_of_another_kind_is_no_evidence_against_a_twin(real, make_packets, make_varied) -> None:
    found = attack(real, elsewhere(make_varied(3)), make_packets(4, 400))
    membership = found.findings[1]
    assert membership.verdict is Verdict.OPEN  # they are told apart without the twin just as well
    assert membership.figures["density"]["blind"]["auc"] > 0.9


def test_flows_of_one_packet_are_left_out_and_counted(make_packets) -> None:
    lone = make_packets(1, 100)
    _, first = np.unique(lone.source_transport_port, return_index=True)
    found = attack(lone.take(np.sort(first)), lone.take(np.sort(first)))
    copies = found.findings[0]
    assert copies.figures["flows_of_one_packet"]["count"] > 0
    assert "one packet" in copies.words


def test_a_single_packet_on_either_side_is_not_judged_and_does_not_fail(real) -> None:
    for pair in ((real.take(slice(0, 1)), real), (real, real.take(slice(0, 1)))):
        found = attack(*pair, real)
        assert len(found.findings) == len(NAMES)


def test_large_traces_are_sampled_and_equal_flows_by_the_thousand_take_no_time() -> None:
    rng = np.random.default_rng(0)
    assert np.array_equal(sample(5, 10, rng), np.arange(5))
    some = sample(100_000, 20_000, rng)
    assert len(np.unique(some)) == 20_000
    assert (np.diff(some) > 0).all()
    same = np.zeros((20_000, 33))
    assert recurs(same, same, 0.05).all()  # a k-d tree of equal rows would be a line
    assert not recurs(same, same + 1, 0.05).any()
    assert len(recurs(same[:0], same, 0.05)) == 20_000


def test_the_same_seed_gives_the_same_findings_and_they_are_json(real, held_out, make_varied) -> None:
    twin = elsewhere(make_varied(3))
    one, other = (attack(real, twin, held_out, there).as_dict() for _ in range(2))
    assert json.dumps(one) == json.dumps(other)
    assert set(one["findings"]) == set(NAMES)
    assert one["findings"]["copies"]["verdict"] in {verdict.value for verdict in Verdict}
