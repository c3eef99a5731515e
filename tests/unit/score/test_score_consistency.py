import numpy as np

from nsstream.score.consistency import consistency
from nsstream.score.observed import observe
from nsstream.trace import PacketBatch


def _with(packets: PacketBatch, name: str, change) -> PacketBatch:
    columns = {k: v.copy() for k, v in packets.columns().items()}
    change(columns[name])
    return PacketBatch.from_columns(columns)


def test_lawful_packets_pass_all_four(make_packets) -> None:
    assert consistency(observe(make_packets(1))) == dict.fromkeys(
        ("addresses", "flow_octets", "port_protocol", "least_size"), 1.0
    )


def test_a_multicast_source_fails_the_first(make_packets) -> None:
    packets = make_packets(1)

    def one_in_224(address: np.ndarray) -> None:
        address[0, 12] = 224

    assert consistency(observe(_with(packets, "source_address", one_in_224)))["addresses"] == 1 - 1 / len(packets)


def test_a_packet_shorter_than_its_headers_fails_the_fourth_and_its_flow_may_fail_the_second(make_packets) -> None:
    packets = make_packets(1)

    def all_tiny(size: np.ndarray) -> None:
        size[:] = 21

    shares = consistency(observe(_with(packets, "ip_total_length", all_tiny)))
    assert shares["least_size"] == 0
    assert shares["flow_octets"] == 0


def test_dns_port_of_tcp_passes_and_ssh_over_udp_fails_the_third(make_packets) -> None:
    assert consistency(observe(make_packets(1, port=53)))["port_protocol"] == 1
    packets = make_packets(1)
    is_udp = packets.protocol_identifier == 17

    def as_ssh(port: np.ndarray) -> None:
        port[is_udp & (port == 53)] = 22

    changed = _with(_with(packets, "source_transport_port", as_ssh), "destination_transport_port", as_ssh)
    assert consistency(observe(changed))["port_protocol"] == 1 - is_udp.mean()


def test_an_ipv6_packet_needs_twenty_octets_more(make_packets) -> None:
    def v6(version: np.ndarray) -> None:
        version[:] = 6

    shares = consistency(observe(_with(make_packets(1), "ip_version", v6)))
    sizes = make_packets(1)
    is_enough = sizes.ip_total_length >= np.where(sizes.protocol_identifier == 6, 60, 48)
    assert shares["least_size"] == is_enough.mean()
