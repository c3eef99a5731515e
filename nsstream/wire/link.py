"""Link layers: from the start of a frame to the start of its IP header, tags and all.

Promises: `find_network_header` reads no octet at or beyond `end`; whatever the octets are, it gives a fate. Supported
are Ethernet with IEEE 802.1Q and 802.1ad tags and with LLC/SNAP, raw IP, Linux cooked v1 and v2, and BSD loopback in
both byte orders. Numbers of link types: the LINKTYPE registry of tcpdump.org (raw IP also under the DLT numbers 12 and
14).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire import fates
from nsstream.wire.octets import u16, u32, u32_little

NULL: Final = 0
ETHERNET: Final = 1
RAW_DLT: Final = 12
RAW_DLT_OPENBSD: Final = 14
RAW: Final = 101
LOOP: Final = 108
LINUX_SLL: Final = 113
IPV4: Final = 228
IPV6: Final = 229
LINUX_SLL2: Final = 276
SUPPORTED_LINK_TYPES: Final = frozenset(
    {NULL, ETHERNET, RAW_DLT, RAW_DLT_OPENBSD, RAW, LOOP, LINUX_SLL, IPV4, IPV6, LINUX_SLL2}
)
LINK_TYPE_NAMES: Final = {
    6: "token ring",
    9: "PPP",
    10: "FDDI",
    50: "PPP in HDLC framing",
    51: "PPPoE",
    104: "Cisco HDLC",
    105: "IEEE 802.11",
    107: "frame relay",
    109: "OpenBSD IPsec",
    117: "OpenBSD pflog",
    119: "IEEE 802.11 with Prism header",
    127: "IEEE 802.11 with radiotap header",
    163: "IEEE 802.11 with AVS header",
    187: "Bluetooth HCI",
    189: "Linux USB",
    192: "per-packet information",
    195: "IEEE 802.15.4",
    201: "Bluetooth HCI with direction",
    220: "Linux USB, padded",
    227: "CAN bus",
    230: "IEEE 802.15.4 without FCS",
    239: "Linux netfilter log",
    249: "USBPcap",
    252: "Wireshark upper PDU",
    253: "Linux netlink",
}
MAX_VLAN_TAGS: Final = 8

_ARPHRD_NETLINK: Final = 824  # Linux cooked: its protocol field is a netlink family, not an EtherType


def link_type_name(link_type: int) -> str:
    """A link type for a message: number, and name where we know one."""
    name = LINK_TYPE_NAMES.get(link_type)
    return f"{link_type} ({name})" if name else str(link_type)


@njit(cache=True, nogil=True)
def find_network_header(octets: NDArray[np.uint8], start: int, end: int, link_type: int) -> tuple[int, int, int, int]:
    """Find the IP header of the frame ``octets[start:end]``.

    Returns:
        fate (`KEPT`, `SHORT_FRAME` where the frame ends too early, or an unsupported kind), the index where the IP
        header starts, the IP version that the link layer promises (0: it promises none), the VLAN id of the outermost
        tag.
    """
    if link_type == ETHERNET:
        if end - start < 14:
            return fates.SHORT_FRAME, start, 0, 0
        return _after_ethertype(octets, start + 14, end, u16(octets, start + 12))
    if link_type in (RAW, RAW_DLT, RAW_DLT_OPENBSD):
        return fates.KEPT, start, 0, 0
    if link_type == LINUX_SLL:
        if end - start < 16:
            return fates.SHORT_FRAME, start, 0, 0
        if u16(octets, start + 2) == _ARPHRD_NETLINK:
            return fates.NON_IP, start, 0, 0
        return _after_ethertype(octets, start + 16, end, u16(octets, start + 14))
    if link_type == LINUX_SLL2:
        if end - start < 20:
            return fates.SHORT_FRAME, start, 0, 0
        if u16(octets, start + 8) == _ARPHRD_NETLINK:
            return fates.NON_IP, start, 0, 0
        return _after_ethertype(octets, start + 20, end, u16(octets, start))
    if link_type == IPV4:
        return fates.KEPT, start, 4, 0
    if link_type == IPV6:
        return fates.KEPT, start, 6, 0
    if link_type in (NULL, LOOP):
        if end - start < 4:
            return fates.SHORT_FRAME, start, 0, 0
        # Byte order of the capturing host for NULL, network order for LOOP; families are small numbers in either.
        family = min(u32(octets, start), u32_little(octets, start))
        if family == 2:
            return fates.KEPT, start + 4, 4, 0
        if family in (24, 28, 30, 10, 23):  # AF_INET6 of NetBSD, FreeBSD, macOS, Linux, Windows
            return fates.KEPT, start + 4, 6, 0
        return fates.NON_IP, start, 0, 0
    return fates.LINK_TYPE, start, 0, 0


@njit(cache=True, inline="always")
def _after_ethertype(octets: NDArray[np.uint8], at: int, end: int, ethertype: int) -> tuple[int, int, int, int]:
    if ethertype == 0x0800:
        return fates.KEPT, at, 4, 0
    if ethertype == 0x86DD:
        return fates.KEPT, at, 6, 0
    return _after_other_ethertype(octets, at, end, ethertype)


@njit(cache=True, nogil=True)
def _after_other_ethertype(octets: NDArray[np.uint8], at: int, end: int, ethertype: int) -> tuple[int, int, int, int]:
    vlan_id = 0
    tags = 0
    while ethertype in (0x8100, 0x88A8, 0x9100):
        if at + 4 > end:
            return fates.SHORT_FRAME, at, 0, 0
        if tags == MAX_VLAN_TAGS:
            return fates.VLAN_STACK, at, 0, 0
        if tags == 0:
            vlan_id = u16(octets, at) & 0x0FFF
        tags += 1
        ethertype = u16(octets, at + 2)
        at += 4
    if ethertype <= 1500:  # IEEE 802.3 length (Ethernet), or a cooked pseudo-protocol: 802.2 follows
        is_snap = at + 8 <= end and u32(octets, at) == 0xAAAA0300 and octets[at + 4] == 0 and octets[at + 5] == 0
        if not is_snap:
            return fates.LLC, at, 0, vlan_id
        ethertype = u16(octets, at + 6)
        at += 8
        if ethertype != 0x0800 and ethertype != 0x86DD:
            return fates.LLC, at, 0, vlan_id
    if ethertype == 0x0800:
        return fates.KEPT, at, 4, vlan_id
    if ethertype == 0x86DD:
        return fates.KEPT, at, 6, vlan_id
    if ethertype == 0x0806:
        return fates.ARP, at, 0, vlan_id
    if ethertype == 0x888E:
        return fates.EAPOL, at, 0, vlan_id
    if ethertype == 0x88CC:
        return fates.LLDP, at, 0, vlan_id
    if ethertype in (0x8847, 0x8848):
        return fates.MPLS, at, 0, vlan_id
    if ethertype in (0x8863, 0x8864):
        return fates.PPPOE, at, 0, vlan_id
    return fates.NON_IP, at, 0, vlan_id
