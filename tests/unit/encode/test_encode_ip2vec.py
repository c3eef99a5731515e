"""IP2Vec: a vector for every port of TCP and UDP, near those of its kind, made of public things alone."""

from importlib.resources import as_file, files

import numpy as np
import pytest
from made_traffic import back, batch_of, packet, tcp

from nsstream.capture import read_trace
from nsstream.encode.encoding import sort_by_start
from nsstream.encode.ip2vec import IP2Vec, ip2vec, service_shares
from nsstream.encode.ip2vec_corpus import SERVICES, behaviour_of, sentences_of_conversations, sentences_of_families
from nsstream.encode.make_ip2vec import learn_ip2vec
from nsstream.encode.port_families import FAMILIES
from nsstream.encode.public_services import PUBLIC_SERVICES
from nsstream.trace.fields import ACK, ICMP, PSH, SYN, TCP, UDP
from nsstream.trace.grouping import group_conversations

SCTP = 132


def vectors_of(*services):
    return ip2vec().encode(*np.array(services, np.int64).T)


def alike(one, other):
    return float(vectors_of(one)[0] @ vectors_of(other)[0])


def conversations_of(*rows):
    return group_conversations(batch_of(rows))[0]


def test_the_file_is_what_the_command_makes():
    with as_file(files("nsstream_daemon") / "data" / "lab.pcap.xz") as lab:
        table, _ = group_conversations(read_trace(lab)[0])
    made, shipped = learn_ip2vec(sort_by_start(table)), ip2vec()
    assert made.words == shipped.words
    # Another processor rounds otherwise, and what rounding changes is learned from: a little is allowed.
    assert (made.vectors * shipped.vectors).sum(axis=1).min() > 0.98


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_port_has_a_vector_of_its_own(protocol):
    vectors = ip2vec().encode(np.full(65_535, protocol), np.arange(1, 65_536))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert len(np.unique(vectors, axis=0)) == len(vectors)


def test_every_public_service_is_in_the_dictionary():
    assert {(protocol, max(port, 0)) for protocol, _, _, port in PUBLIC_SERVICES if port >= 0} <= set(SERVICES)


def test_services_are_near_those_of_their_family():
    families_of = [{family.name for family in FAMILIES if service in family.services()} for service in SERVICES]
    vectors = vectors_of(*SERVICES)
    near = np.argsort(-(vectors @ vectors.T), axis=1)[:, :6]
    related = [bool(families_of[i] & families_of[j]) for i, row in enumerate(near) for j in row if i != j]
    by_chance = np.mean([bool(one & other) for one in families_of for other in families_of])
    assert np.mean(related) > 0.7 > 5 * by_chance


@pytest.mark.parametrize(
    ("service", "like", "unlike"),
    [
        ((TCP, 80), (TCP, 8080), (TCP, 22)),
        ((TCP, 993), (TCP, 995), (TCP, 502)),
        ((UDP, 5353), (UDP, 5355), (UDP, 443)),
        ((TCP, 502), (TCP, 20000), (TCP, 443)),
        ((TCP, 22), (TCP, 23), (TCP, 80)),
        ((TCP, 8084), (TCP, 8081), (TCP, 22)),  # not listed: as its neighbours
        ((UDP, 40_000), (UDP, 40_001), (TCP, 40_000)),
    ],
)
def test_like_is_near_like(service, like, unlike):
    assert alike(service, like) > alike(service, unlike) + 0.2


def test_what_has_no_port_has_its_protocols_vector():
    vectors = vectors_of((TCP, -1), (TCP, 0), (ICMP, 0), (ICMP, 7), (SCTP, 80))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[2], vectors[3])
    assert not vectors[4].any()


def test_a_newcomer_is_made_of_what_is_like_it():
    used = np.array([(TCP, 4, 0, 80), (TCP, 4, 0, 22), (UDP, 4, 0, 53), (UDP, 6, 0, 53), (TCP, 6, 0, 80)])
    fresh = np.array([(TCP, 4, 0, 23), (TCP, 4, 0, 8080), (UDP, 6, 0, 5353), (UDP, 4, 0, 137), (SCTP, 4, 0, 80)])
    shares = service_shares(fresh, used)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert shares.argmax(axis=1).tolist()[:4] == [1, 0, 3, 2]
    assert shares.max(axis=1)[:4].min() > 0.7
    np.testing.assert_allclose(shares[4], 1 / len(used))  # nobody knows: the mean


def test_vectors_survive_their_text_and_others_are_refused():
    again = IP2Vec.from_text(ip2vec().as_text())
    assert again.words == ip2vec().words
    np.testing.assert_allclose(again.vectors, ip2vec().vectors, atol=1e-4)
    text = ip2vec().as_text()
    for other in ("", "1 16\n", text.replace("tcp/80 ", "tcp/79 "), text.rsplit("\n", 2)[0]):
        with pytest.raises(ValueError, match=r".+"):
            IP2Vec.from_text(other)


def test_a_conversation_says_what_it_did():
    asked = [packet(0, octets=40), packet(3, ("198.51.100.2", 80), ("192.0.2.1", 40_000), octets=300)]
    (said,) = behaviour_of(conversations_of(*asked))
    expected = "length:2 first:initiator answered asks:small answers:middle pace:quick volume:down"
    assert said == expected.split()
    greeted = [tcp(0, SYN), back(1, SYN | ACK), tcp(2, ACK), back(3, PSH | ACK, octets=20), tcp(9000, ACK)]
    (said,) = behaviour_of(conversations_of(*greeted))
    expected = "length:few first:responder answered asks:none answers:small pace:slow volume:down"
    assert said == expected.split()
    (said,) = behaviour_of(conversations_of(packet(0, destination=("224.0.0.251", 5353), octets=501)))
    expected = "length:1 first:initiator silent asks:large answers:none pace:alone volume:up multicast"
    assert said == expected.split()


def test_sentences_are_of_services_and_have_no_addresses_and_no_ephemeral_ports():
    rows = [packet(i, ("192.0.2.1", 40_000 + i), octets=10) for i in range(100)]
    rows += [packet(i, ("192.0.2.1", 41_000), ("198.51.100.2", 2_345), octets=10) for i in range(3)]
    rows += [packet(0, ("192.0.2.1", 0), ("198.51.100.2", 0), SCTP), packet(0, fragment_offset=8)]
    sentences = sentences_of_conversations(conversations_of(*rows))
    assert sum("udp/80" in sentence for sentence in sentences) == 24
    (other,) = (sentence for sentence in sentences if "udp/80" not in sentence)
    assert other[:2] == ["udp/user", "udp"]
    words = {word for sentence in (*sentences, *sentences_of_families()) for word in sentence}
    assert not any("192.0" in word or word.endswith(("/40000", "/2345", "/132")) for word in words)
