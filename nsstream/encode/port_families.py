"""What services are: families of ports and protocols, and how the conversations of each behave, as words.

A public dictionary that `ip2vec` is learned from, written by hand: ports as in IANA's registry of service names and
ports (RFC 6335), a few as they are used without being registered; behaviour as the protocols have it, in the words of
`ip2vec_corpus.behaviour_of`. A port may be of several families. Every service of `public_services` is in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP


@dataclass(frozen=True)
class Family:
    """Services of one kind.

    Attributes:
        name: of the family.
        behaves: words for its conversations.
        tcp, udp: its ports.
        protocols: those of IP that it has to itself.
    """

    name: str
    behaves: str
    tcp: tuple[int, ...] = ()
    udp: tuple[int, ...] = ()
    protocols: tuple[int, ...] = ()

    def services(self) -> Iterator[tuple[int, int]]:
        """Protocol and port of each; port 0 for protocols without."""
        yield from ((TCP, port) for port in self.tcp)
        yield from ((UDP, port) for port in self.udp)
        yield from ((protocol, 0) for protocol in self.protocols)


FAMILIES: Final = (
    Family(
        "web", "length:some first:initiator answered asks:middle answers:large pace:quick volume:down",
        tcp=(
            80, 81, 82, 280, 443, 591, 593, 631, 1880, 2480, 2869, 3000, 5000, 5357, 5985, 7001, 7547, 8000, 8008, 8080,
            8081, 8082, 8083, 8086, 8088, 8090, 8443, 8880, 8888, 9000, 9080, 9090, 9200, 9443, 9981, 10000, 16992,
        ),
        udp=(80, 443),
    ),
    Family(
        "tls", "length:some first:initiator answered asks:large answers:large pace:quick volume:down",
        tcp=(
            443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 2083, 2376, 3269, 4433, 4843, 5061, 5223, 5228, 5349,
            5671, 5684, 5986, 6443, 6514, 6697, 8009, 8443, 8883, 9093, 9443, 16993,
        ),
    ),
    Family(
        "quic", "length:many first:initiator answered asks:large answers:large pace:quick volume:down",
        udp=(80, 443, 784, 853, 8443, 8853),
    ),
    Family(
        "names", "length:2 first:initiator answered asks:small answers:middle pace:quick volume:even",
        tcp=(42, 53, 137, 853), udp=(42, 53, 137, 853, 5353, 5355, 8853),
    ),
    Family(
        "discovery", "length:few first:initiator silent asks:middle answers:none pace:slow volume:up multicast",
        udp=(
            137, 138, 427, 1900, 3289, 3702, 5050, 5350, 5351, 5353, 5355, 5678, 6666, 6667, 6771, 9999, 10001, 17500,
            20002, 32412, 32414, 34964, 54915, 56700, 57621,
        ),
    ),
    Family(
        "leases", "length:2 first:initiator answered asks:middle answers:middle pace:slow volume:even multicast",
        udp=(67, 68, 546, 547, 647, 4011),
    ),
    Family(
        "time", "length:2 first:initiator answered asks:small answers:small pace:quick volume:even",
        tcp=(13, 37), udp=(13, 37, 123),
    ),
    Family(
        "beats", "length:many first:initiator silent asks:small answers:none pace:steady volume:up multicast",
        udp=(319, 320, 694, 1985, 2029, 3784, 3785, 4784, 5404, 5405), protocols=(112,),
    ),
    Family(
        "routing", "length:many first:initiator silent asks:small answers:none pace:slow volume:up multicast",
        tcp=(179, 646, 2601, 2605), udp=(520, 521, 646, 698, 6696), protocols=(2, 88, 89, 103),
    ),
    Family(
        "shell", "length:many first:responder answered asks:small answers:small pace:steady volume:even",
        tcp=(22, 23, 107, 512, 513, 514, 830, 992, 2222, 2323, 4899, 8022),
    ),
    Family(
        "desktop", "length:many answered asks:small answers:small pace:quick volume:down",
        tcp=(1494, 2598, 3389, 5500, 5800, 5900, 5901, 5902, 5938, 6000, 6001), udp=(3389, 3391, 4172, 5938),
    ),
    Family(
        "mail out", "length:some first:responder answered asks:small answers:small pace:quick volume:up",
        tcp=(24, 25, 465, 587, 2525),
    ),
    Family(
        "mail in", "length:some first:responder answered asks:small answers:small pace:quick volume:down",
        tcp=(109, 110, 143, 220, 993, 995, 4190),
    ),
    Family(
        "news", "length:some first:responder answered asks:small answers:small pace:quick volume:down",
        tcp=(119, 433, 563),
    ),
    Family(
        "files", "length:many answered asks:small answers:small pace:quick",
        tcp=(20, 21, 111, 115, 139, 445, 548, 873, 989, 990, 2049, 3205, 3260, 3690, 5445, 9418, 20048, 24007),
        udp=(69, 111, 138, 2049, 4045, 20048),
    ),
    Family(
        "directory", "length:some first:initiator answered asks:middle answers:middle pace:quick volume:even",
        tcp=(88, 135, 389, 427, 464, 636, 749, 3268, 3269), udp=(88, 389, 464),
    ),
    Family(
        "sign-on", "length:2 first:initiator answered asks:middle answers:middle pace:quick volume:even",
        tcp=(49, 113, 2083, 3868), udp=(49, 1645, 1646, 1812, 1813, 3799),
    ),
    Family(
        "management", "length:2 first:initiator answered asks:small answers:middle pace:quick volume:even",
        tcp=(161, 199, 705, 4786, 5988, 5989, 7547, 10001, 10050, 10051), udp=(161, 623, 664, 1434, 4950),
    ),
    Family(
        "remote control", "length:some first:initiator answered asks:middle answers:middle pace:quick volume:even",
        tcp=(135, 593, 623, 5555, 5985, 5986, 6443, 8728, 8729, 16992, 16993),
    ),
    Family(
        "logs", "length:some first:initiator silent asks:middle answers:none pace:slow volume:up",
        tcp=(601, 5044, 6514, 12201), udp=(162, 514, 8125, 12201),
    ),
    Family(
        "flow exports", "length:many first:initiator silent asks:large answers:none pace:slow volume:up",
        tcp=(4739,), udp=(2055, 2056, 4739, 4740, 6343, 9555, 9991, 9995, 9996),
    ),
    Family(
        "databases", "length:some answered asks:small answers:middle pace:quick volume:down",
        tcp=(
            523, 1433, 1434, 1521, 1526, 3050, 3306, 5432, 5433, 5984, 6379, 6380, 7000, 7687, 8086, 9042, 9160, 9200,
            9300, 11211, 26257, 27017, 27018, 28015, 33060, 50000,
        ),
        udp=(1434, 11211),
    ),
    Family(
        "brokers", "length:many first:initiator answered asks:small answers:small pace:slow volume:even",
        tcp=(1883, 4222, 5671, 5672, 8883, 9092, 9093, 61613, 61614, 61616), udp=(1884,),
    ),
    Family(
        "things", "length:2 first:initiator answered asks:small answers:small pace:slow volume:even",
        tcp=(1883, 5683, 5684, 6668, 8883, 9999), udp=(3610, 4387, 5540, 5683, 5684, 38899, 56700),
    ),
    Family(
        "industrial polling", "length:many first:initiator answered asks:small answers:small pace:steady volume:even",
        tcp=(
            102, 502, 789, 802, 1089, 1090, 1091, 1911, 1962, 2222, 2404, 4000, 4712, 4840, 4911, 5007, 5094, 9600,
            19998, 19999, 20000, 20547, 34962, 34963, 34964, 44818, 46824, 47808,
        ),
        udp=(502, 1089, 1090, 1091, 2222, 3671, 4713, 5007, 5094, 9600, 20000, 34962, 34963, 34964, 44818, 47808),
    ),
    Family(
        "printing", "length:some first:initiator answered asks:large answers:small pace:quick volume:up",
        tcp=(515, 631, 9100, 9101), udp=(631,),
    ),
    Family(
        "streaming", "length:many answered asks:middle answers:large pace:quick volume:down",
        tcp=(554, 1755, 1935, 3689, 5000, 7000, 7070, 8008, 8009, 8200, 8554, 32400),
        udp=(554, 5004, 5005, 6970, 8554),
    ),
    Family(
        "calls", "length:many first:initiator answered asks:middle answers:middle pace:quick volume:even",
        tcp=(1720, 2000, 5060, 5061),
        udp=(2427, 2727, 3478, 3479, 3480, 3481, 4569, 5004, 5005, 5060, 5061, 5090, 8801, 16384, 19302, 19305),
    ),
    Family(
        "traversal", "length:2 first:initiator answered asks:small answers:small pace:quick volume:even",
        tcp=(3478, 5349), udp=(3478, 3479, 3544, 5349, 5350, 5351, 19302),
    ),
    Family(
        "tunnels", "length:many first:initiator answered asks:middle answers:middle pace:quick volume:even",
        tcp=(1194, 1723, 10000),
        udp=(500, 1194, 1701, 2152, 3544, 3545, 4500, 4754, 4789, 6081, 6635, 8472, 10000, 41641, 51820, 51821),
        protocols=(4, 41, 47, 50, 51),
    ),
    Family(
        "chat", "length:many answered asks:middle answers:middle pace:slow volume:even",
        tcp=(194, 1863, 5190, 5222, 5223, 5228, 5229, 5230, 5269, 6660, 6665, 6666, 6667, 6668, 6669, 6697, 8448),
        udp=(5243, 9785),
    ),
    Family(
        "games", "length:many first:initiator answered asks:small answers:middle pace:quick volume:down",
        tcp=(3724, 6112, 25565, 27015, 27036),
        udp=(3074, 3659, 6112, 7777, 9308, 19132, 25565, 26000, 27015, 27016, 27017, 27018, 27019, 27020, 27036, 27960),
    ),
    Family(
        "peers", "length:some first:initiator answered asks:middle answers:middle pace:slow",
        tcp=(4001, 4662, 6346, 6347, 6881, 6882, 6883, 6884, 6885, 6886, 6887, 6888, 6889, 7680, 8333, 30303, 51413),
        udp=(4001, 4672, 6346, 6347, 6771, 6881, 6882, 6889, 30303, 51413),
    ),
    Family(
        "proxies", "length:some first:initiator answered asks:middle answers:large pace:quick volume:down",
        tcp=(1080, 3128, 8080, 8118, 8888, 9050, 9051), udp=(1080, 8080),
    ),
    Family(
        "clusters", "length:many first:initiator answered asks:middle answers:middle pace:steady volume:even",
        tcp=(2181, 2375, 2376, 2377, 2379, 2380, 4369, 6443, 7946, 8300, 8301, 8302, 8500, 8600, 9094, 10250, 10255),
        udp=(4789, 7946, 8301, 8302, 8600),
    ),
    Family(
        "testing", "length:many first:initiator answered pace:quick",
        tcp=(7, 9, 17, 19, 862, 5001, 5201), udp=(7, 9, 17, 19, 862, 5001, 5201),
    ),
    Family(
        "echoes and errors", "length:few first:initiator answered asks:small answers:small pace:slow volume:even",
        protocols=(ICMP, ICMPV6),
    ),
)  # fmt: skip
