"""The TCP life cycle, read back from whole frames by scapy."""

from __future__ import annotations

import numpy as np
import pytest
from made_tables import Packet, chance_table, table_of
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from nsstream.assemble import Assembler, Frames
from nsstream.trace import TcpEvent

SYN, ACK, FIN, RST, PSH = 0x02, 0x10, 0x01, 0x04, 0x08
HANDSHAKE = (Packet(0, 0, 60, SYN, 40), Packet(10, 1, 60, SYN | ACK, 40), Packet(20, 0, 52, ACK, 32))


def segments(frames: Frames) -> list[TCP]:
    return [Ether(frames.frame(i))[TCP] for i in range(len(frames))]


def assembled(*packets: Packet, assembler: Assembler | None = None) -> tuple[list[TCP], Assembler]:
    assembler = assembler or Assembler(np.random.default_rng(1))
    return segments(assembler.assemble(table_of(({}, packets)))), assembler


def test_a_handshake_acknowledges_both_initial_numbers() -> None:
    (syn, syn_ack, ack), _ = assembled(*HANDSHAKE)
    assert syn_ack.ack == (syn.seq + 1) % 2**32
    assert (ack.seq, ack.ack) == (syn_ack.ack, (syn_ack.seq + 1) % 2**32)


@pytest.mark.parametrize(("syn_ttl", "answered"), [(38, 38), (0, 230)])
def test_a_proxy_answers_a_syn_with_a_ttl_of_its_own(syn_ttl: int, answered: int) -> None:
    packets = (*HANDSHAKE, Packet(30, 1, 1052, ACK, 32))
    table = table_of(({"responder_ttl": 230, "responder_syn_ttl": syn_ttl}, packets))
    frames = Assembler(np.random.default_rng(1)).assemble(table)
    assert [Ether(frames.frame(i))[IP].ttl for i in range(len(frames))] == [64, answered, 64, 230]


def test_syn_options_are_those_that_their_length_holds() -> None:
    (syn, syn_ack, ack), _ = assembled(*HANDSHAKE)
    assert [name for name, _ in syn.options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
    assert dict(ack.options)["Timestamp"][1] == dict(syn_ack.options)["Timestamp"][0]


def test_every_bare_ack_between_two_segments_acknowledges_something() -> None:
    data = [Packet(30 + k, 1, 1052, ACK, 32) for k in range(4)]
    acks = [Packet(50 + k, 0, 52, ACK, 32) for k in range(7)]
    out, assembler = assembled(*HANDSHAKE, *data, *acks)
    numbers = [segment.ack - out[1].seq for segment in out[-7:]]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 4001
    assert not assembler.tally


def test_a_bare_ack_with_nothing_to_acknowledge_is_dropped_and_counted() -> None:
    out, assembler = assembled(*HANDSHAKE, Packet(30, 0, 52, ACK, 32))
    assert len(out) == 3
    assert assembler.tally == {"idle_ack_dropped": 1}


def test_an_idle_ack_repeats_the_last_one() -> None:
    out, _ = assembled(*HANDSHAKE, Packet(30, 0, 52, ACK, 32, TcpEvent.IDLE_ACK))
    assert (out[3].seq, out[3].ack, out[3].window) == (out[2].seq, out[2].ack, out[2].window)


def test_a_keep_alive_starts_one_before_the_next_octet() -> None:
    data = (Packet(30, 0, 152, ACK, 32), Packet(31, 1, 52, ACK, 32))
    out, _ = assembled(
        *HANDSHAKE,
        *data,
        Packet(40, 0, 53, ACK, 32, TcpEvent.KEEP_ALIVE),
        Packet(41, 1, 52, ACK, 32, TcpEvent.KEEP_ALIVE_ACK),
    )
    assert out[5].seq == out[3].seq + 99
    assert out[6].ack == out[4].ack


def test_a_retransmitted_syn_keeps_its_number() -> None:
    out, _ = assembled(HANDSHAKE[0], Packet(5, 0, 60, SYN, 40, TcpEvent.RETRANSMISSION), *HANDSHAKE[1:])
    assert out[0].seq == out[1].seq


def test_a_repeated_syn_with_a_shorter_header_offers_what_its_own_length_holds() -> None:
    out, _ = assembled(HANDSHAKE[0], Packet(5, 0, 52, SYN, 32, TcpEvent.RETRANSMISSION), *HANDSHAKE[1:])
    assert [name for name, _ in out[1].options] == ["MSS", "NOP", "WScale", "NOP", "NOP", "SAckOK"]


def test_no_syn_is_repeated_after_data() -> None:
    late = Packet(40, 0, 60, SYN, 40, TcpEvent.RETRANSMISSION)
    out, assembler = assembled(*HANDSHAKE, Packet(30, 0, 152, ACK, 32), late)
    assert len(out) == 4
    assert assembler.tally == {"syn_dropped": 1}


def test_retransmitted_data_repeats_the_last_octets() -> None:
    data = (
        Packet(30, 0, 552, ACK, 32),
        Packet(31, 0, 552, ACK, 32, TcpEvent.RETRANSMISSION),
        Packet(32, 0, 153, ACK, 32),
    )
    out, _ = assembled(*HANDSHAKE, *data)
    assert out[4].seq == out[3].seq
    assert out[5].seq == out[3].seq + 500


def data_of(frames: Frames) -> list[tuple[int, bytes]]:
    """Sequence number and payload of each segment that has one."""
    return [(int(s.seq), bytes(s.payload)) for s in segments(frames) if len(s.payload)]


@pytest.mark.parametrize("port", [80, 443, 502, 50_001])
@pytest.mark.parametrize("length", [2, 300, 500, 501, 1400])
def test_what_is_repeated_has_the_same_octets(port: int, length: int) -> None:
    rows = [Packet(30 + k, 0, 552, ACK, 32) for k in range(3)]
    rows.append(Packet(40, 0, 52 + length, ACK, 32, TcpEvent.RETRANSMISSION))
    frames = Assembler(np.random.default_rng(1)).assemble(table_of(({"responder_port": port}, (*HANDSHAKE, *rows))))
    *sent, (sequence, repeated) = data_of(frames)
    stream = b"".join(octets for _, octets in sent)
    at = sequence - sent[0][0]
    assert stream[at : at + length] == repeated
    assert len(stream) == 1500


def test_after_a_pause_the_segment_of_its_length_is_repeated() -> None:
    rows = [Packet(30 + k, 0, 52 + size, ACK, 32) for k, size in enumerate((100, 200, 300))]
    late = Packet(900_000, 0, 252, ACK, 32, TcpEvent.RETRANSMISSION)
    frames = Assembler(np.random.default_rng(1)).assemble(table_of(({}, (*HANDSHAKE, *rows, late))))
    sent = data_of(frames)
    assert sent[3] == sent[1]


def test_what_is_repeated_is_not_acknowledged_before() -> None:
    rows = [Packet(30 + k, 0, 552, ACK, 32) for k in range(4)]
    acks = [Packet(40 + k, 1, 52, ACK, 32) for k in range(3)]
    late = Packet(50, 0, 552, ACK, 32, TcpEvent.RETRANSMISSION)
    out, assembler = assembled(*HANDSHAKE, *rows, *acks, late, Packet(60, 1, 52, ACK, 32))
    assert out[9].ack <= out[10].seq == out[6].seq
    assert out[11].ack == out[6].seq + 500
    assert not assembler.tally


def test_data_that_was_sent_in_an_earlier_table_is_sent_as_new() -> None:
    _, assembler = assembled(*HANDSHAKE, Packet(30, 0, 152, ACK, 32))
    assembled(Packet(100, 0, 152, ACK, 32, TcpEvent.RETRANSMISSION), assembler=assembler)
    assert assembler.tally == {"repeat_fresh": 1}


def test_a_header_with_room_reports_what_came_behind_a_hole() -> None:
    data = [Packet(30 + k, 1, 1052, ACK, 32) for k in range(4)]
    out, _ = assembled(*HANDSHAKE, *data, Packet(50, 0, 64, ACK, 44), Packet(51, 0, 64, ACK, 44, TcpEvent.IDLE_ACK))
    for ack in out[-2:]:
        ((left, right),) = [value for name, value in ack.options if name == "SAck"]
        assert (left, right) == (ack.ack + 1000, out[6].seq + 1000)


def test_a_segment_beyond_the_mtu_is_sent_as_several() -> None:
    long = Packet(30, 0, 4052, ACK | PSH | FIN, 32)
    assembler = Assembler(np.random.default_rng(1), oversize="segment")
    frames = assembler.assemble(table_of(({"responder_port": 50_001}, (*HANDSHAKE, long)), ({}, HANDSHAKE[:1])))
    pieces = [s for s in segments(frames) if len(s.payload)]
    assert [len(s.payload) for s in pieces] == [1448, 1448, 1104]
    assert [s.seq - pieces[0].seq for s in pieces] == [0, 1448, 2896]
    assert [int(s.flags) for s in pieces] == [ACK, ACK, ACK | PSH | FIN]
    assert assembler.tally["segmented"] == 1
    assert "mtu_clamped" not in assembler.tally


def test_other_packets_are_as_they_were_when_long_ones_are_segmented() -> None:
    table = chance_table(3, 40)
    plain, both = (Assembler(np.random.default_rng(1), oversize=kind) for kind in ("clamp", "segment"))
    short = table.take(np.flatnonzero(np.maximum.reduceat(table.ip_total_length, table.packet_offset[:-1]) <= 1500))
    assert plain.assemble(short).octets.tobytes() == both.assemble(short).octets.tobytes()
    assert len(both.assemble(table)) >= len(plain.assemble(table))


def test_an_unknown_way_with_long_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'drop'"):
        Assembler(np.random.default_rng(1), oversize="drop")


def test_a_closed_port_answers_from_sequence_number_zero() -> None:
    out, _ = assembled(HANDSHAKE[0], Packet(5, 1, 40, RST | ACK, 20))
    assert (out[1].seq, out[1].ack) == (0, (out[0].seq + 1) % 2**32)


def test_data_after_fin_is_not_sent() -> None:
    fin = (Packet(30, 0, 52, FIN | ACK, 32), Packet(31, 1, 152, ACK, 32), Packet(40, 0, 152, ACK | PSH, 32))
    out, assembler = assembled(*HANDSHAKE, *fin)
    assert assembler.tally == {"after_fin_trimmed": 1}
    assert len(out[-1].payload) == 0
    assert out[-1].seq == out[3].seq + 1


def test_a_side_that_reset_says_nothing_more() -> None:
    out, assembler = assembled(*HANDSHAKE, Packet(30, 0, 40, RST, 20), Packet(31, 0, 152, ACK, 32))
    assert len(out) == 4
    assert assembler.tally == {"after_reset_dropped": 1}


def test_a_first_answer_of_data_becomes_a_syn_ack() -> None:
    out, assembler = assembled(HANDSHAKE[0], Packet(5, 1, 152, ACK, 32))
    assert int(out[1].flags) == SYN | ACK
    assert assembler.tally == {"handshake_repaired": 1}


def test_a_stream_goes_on_in_the_next_table() -> None:
    first, assembler = assembled(*HANDSHAKE, Packet(30, 0, 152, ACK, 32))
    second, _ = assembled(Packet(100, 1, 52, ACK, 32), Packet(110, 0, 252, ACK, 32), assembler=assembler)
    assert second[0].ack == first[3].seq + 100
    assert second[1].seq == first[3].seq + 100


def test_a_five_tuple_used_again_gets_a_higher_number() -> None:
    close = (Packet(30, 0, 40, RST, 20), Packet(40, 0, 60, SYN, 40), Packet(50, 1, 60, SYN | ACK, 40))
    out, assembler = assembled(*HANDSHAKE, *close)
    assert 0 < (out[4].seq - out[0].seq) % 2**32 < 2**31
    assert assembler.tally == {"port_reused": 1}


def test_overlapping_conversations_of_one_five_tuple_get_ports_of_their_own() -> None:
    assembler = Assembler(np.random.default_rng(1))
    out = segments(assembler.assemble(table_of(({}, HANDSHAKE), ({}, HANDSHAKE))))
    assert sorted({s.sport for s in out} | {s.dport for s in out}) == [80, 50_000, 50_001]
    assert assembler.tally == {"port_moved": 1}
