"""AddressMap: keyed, the same every time, prefixes kept together, public constants left alone."""

import ipaddress

import numpy as np
import pytest
from made_traffic import octets_of

from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError

KEY = bytes(range(32))


def mapped(*addresses, **ranges):
    out = AddressMap(KEY, **ranges).map(np.array([octets_of(a) for a in addresses]))
    parsed = [ipaddress.ip_address(a.tobytes()) for a in out]
    return [p.ipv4_mapped or p for p in parsed]


@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.251", "239.255.255.250", "255.255.255.255", "127.0.0.1", "0.0.0.0", "::", "::1", "ff02::1",
        "ff02::fb", "ff05::2",
    ],
)  # fmt: skip
def test_public_constants_stay(address):
    assert mapped(address) == [ipaddress.ip_address(address)]


def test_the_ranges_are_told_as_octets_and_bits():
    v4, v6 = AddressMap(bytes(16), "10.64.0.0/10", "fd12::/16").networks
    assert v4 == (bytes(10) + b"\xff\xff" + bytes([10, 64, 0, 0]), 106)
    assert v6 == (bytes.fromhex("fd12") + bytes(14), 16)


def test_a_solicited_node_stays_one_and_loses_its_host():
    (out,) = mapped("ff02::1:ff12:3456")
    assert out in ipaddress.ip_network("ff02::1:ff00:0/104")
    assert out != ipaddress.ip_address("ff02::1:ff12:3456")


def test_link_local_stays_link_local_and_loses_its_host():
    (out,) = mapped("fe80::1234")
    assert out.is_link_local
    assert out != ipaddress.ip_address("fe80::1234")


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "8.8.8.8", "169.254.3.4", "223.255.255.254", "1.0.0.0"])
@pytest.mark.parametrize("ipv4_range", ["10.0.0.0/8", "172.16.0.0/12", "198.18.0.0/15", "100.64.0.0/16"])
def test_ipv4_unicast_goes_into_its_range(address, ipv4_range):
    assert mapped(address, ipv4_range=ipv4_range)[0] in ipaddress.ip_network(ipv4_range)


@pytest.mark.parametrize("address", ["2001:db8::1", "fd00::5", "2400:cb00::", "64:ff9b::1"])
@pytest.mark.parametrize("ipv6_range", ["fd00::/8", "2001:db8::/32", "fd12:3456:789a::/48"])
def test_ipv6_unicast_goes_into_its_range(address, ipv6_range):
    assert mapped(address, ipv6_range=ipv6_range)[0] in ipaddress.ip_network(ipv6_range)


def test_hosts_of_one_slash_64_share_one_after_the_map():
    near, same, far = (int(a) >> 64 for a in mapped("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"))
    assert near == same != far


def shared(a, b):
    """How many leading bits two addresses share."""
    return a.max_prefixlen - (int(a) ^ int(b)).bit_length()


@pytest.mark.parametrize("ipv4_range", ["10.0.0.0/8", "172.16.0.0/12", "128.0.0.0/2", "100.64.0.0/16"])
def test_ipv4_prefixes_behind_that_of_the_range_are_kept_to_the_bit(ipv4_range):
    real, lengths = ipaddress.ip_address("93.184.77.98"), range(ipaddress.ip_network(ipv4_range).prefixlen, 32)
    tails = np.random.default_rng(3).integers(0, 1 << 31, len(lengths)).tolist()
    others = [ipaddress.ip_address(int(real) ^ (1 << 31 | tail) >> k) for k, tail in zip(lengths, tails, strict=True)]
    out, *outs = mapped(real, *others, ipv4_range=ipv4_range)
    assert [shared(real, other) for other in others] == [*lengths]
    assert [shared(out, other) for other in outs] == [*lengths]


def test_ipv6_prefixes_are_kept_to_the_bit_down_to_the_subnet():
    real = ipaddress.ip_address("2001:db8:1234:5678::9")
    out, *outs = mapped(real, *(ipaddress.ip_address(int(real) ^ 1 << 127 - k) for k in range(8, 64)))
    assert [shared(out, other) for other in outs] == [*range(8, 64)]


def test_hosts_of_one_network_stay_apart():
    real = [f"93.{a}.{b}.{c}" for a in range(0, 256, 16) for b in range(0, 256, 16) for c in range(0, 256, 8)]
    assert len(set(mapped(*real))) == len(real)


def test_another_key_is_another_map():
    addresses = np.array([octets_of(a) for a in ("192.0.2.1", "2001:db8::1", "fe80::1", "ff02::1:ff00:1")])
    other = AddressMap(KEY[::-1]).map(addresses)
    assert (AddressMap(KEY).map(addresses) != other).any(axis=1).all()


def test_no_addresses_map_to_none():
    assert AddressMap(KEY).map(np.zeros((0, 16), np.uint8)).shape == (0, 16)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_of_another_length_is_refused(size):
    with pytest.raises(InputError, match=f"16 to 64 octets, got {size}"):
        AddressMap(bytes(size))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"ipv4_range": "10.0.0.1/8"}, "not an address range: '10.0.0.1/8'"),
        ({"ipv4_range": "ten"}, "not an address range: 'ten'"),
        ({"ipv4_range": "fd00::/8"}, "not an address range"),
        ({"ipv4_range": "10.0.0.0/24"}, "too narrow: it must be a /16 or shorter"),
        ({"ipv4_range": "0.0.0.0/0"}, "not unicast throughout"),
        ({"ipv4_range": "224.0.0.0/4"}, "not unicast throughout"),
        ({"ipv6_range": "::/0"}, "not unicast throughout"),
        ({"ipv6_range": "fd00::/64"}, "too narrow: it must be a /48 or shorter"),
        ({"ipv6_range": "10.0.0.0/8"}, "not an address range"),
        ({"ipv6_range": ""}, "not an address range"),
    ],
)
def test_a_bad_range_is_refused_by_name(ranges, message):
    with pytest.raises(InputError, match=message):
        AddressMap(KEY, **ranges)


@pytest.mark.parametrize("last", [0, 1, 254, 255])
def test_the_roles_of_a_subnet_s_ends_stay(last):
    hosts = mapped(*(f"{a}.{b}.{c}.{last}" for a in (10, 172, 192) for b in (0, 16, 168) for c in range(0, 256, 17)))
    assert {int(host) & 0xFF for host in hosts} == {last}
    assert len({int(host) >> 8 for host in hosts}) == len(hosts)  # and /24s stay apart


def test_a_subnet_s_other_hosts_are_moved_and_stay_apart():
    hosts = [int(host) & 0xFF for host in mapped(*(f"192.0.2.{last}" for last in range(256)))]
    assert sorted(hosts) == list(range(256))
    assert sum(host != last for last, host in enumerate(hosts)) > 64
    for bits in range(1, 8):  # prefixes of the last octet stay together
        groups = {last >> (8 - bits): host >> (8 - bits) for last, host in enumerate(hosts)}
        assert all(groups[last >> (8 - bits)] == host >> (8 - bits) for last, host in enumerate(hosts))
