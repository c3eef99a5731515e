"""The lab's topology is built, carries real traffic past its capture point, and leaves nothing behind."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from home import HOME_HOSTS, UPNP, address_of, announced, fetch, join, netbios_question, start_home
from lab import HOME, HOSTS, NETNS_ETC, Lab, sweep_stale_labs
from links import Impairment, Link, dump_links, load_links, pop_tag, push_tag
from make_capture import HOME_PROGRAMS, PROGRAMS, missing_packages
from services import start_dns, start_web
from sniff import Sniffer, count_packets
from workload import Client

FRAME = bytes(range(12)) + b"\x08\x00" + b"payload"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")


@pytest.fixture
def lab() -> Iterator[Lab]:
    assert missing_packages() == []
    with Lab(seed=1) as running:
        yield running


@pytest.mark.root
@needs_root
def test_lookup_fetch_and_ping_cross_the_capture_point_once_and_nothing_is_left(tmp_path: Path) -> None:
    assert missing_packages() == []
    capture, server = tmp_path / "lab.pcap", HOSTS["s2"]
    with Lab(seed=1) as lab:
        start_dns(lab)
        start_web(lab, "s2")
        with Sniffer(lab, capture):
            answer = lab.run("c1", "dig", "+tries=5", "+time=1", "+short", "www.lab.test", "AAAA")
            page = lab.run("c1", "curl", "-sS", "-4", "http://www.lab.test/index.html")
            echo = lab.run("c1", "ping", "-n", "-6", "-c", "3", "-i", "0.2", server.ipv6)
        own = [lab.namespace(host) for host in HOSTS]
        assert _namespaces().issuperset(own)

    assert answer.stdout.strip() == server.ipv6
    assert "quick brown fox" in page.stdout
    assert "bytes from" in echo.stdout
    assert count_packets(capture, "udp port 53 and host 10.20.0.11") >= 4  # dig, then curl's own look-up
    assert count_packets(capture, f"tcp port 80 and host {server.ipv4}") >= 9
    requests = "icmp6 and ip6[40] == 128"
    assert count_packets(capture, requests) == 3

    assert _namespaces().isdisjoint(own)
    assert not lab.directory.exists()
    assert not any((NETNS_ETC / namespace).exists() for namespace in own)


@pytest.mark.root
@needs_root
def test_vlan_client_is_captured_with_its_tag(tmp_path: Path, lab: Lab) -> None:
    capture = tmp_path / "lab.pcap"
    with Sniffer(lab, capture):
        echo = lab.run("c6", "ping", "-n", "-c", "5", "-i", "0.2", HOSTS["s1"].ipv4)
    assert "bytes from" in echo.stdout
    assert count_packets(capture, "vlan 10 and icmp") >= 5
    assert count_packets(capture, "icmp") == 0  # none without the tag


@pytest.mark.root
@needs_root
def test_devices_of_a_home_get_addresses_find_each_other_and_reach_their_makers(tmp_path: Path) -> None:
    assert missing_packages(PROGRAMS | HOME_PROGRAMS) == []
    capture = tmp_path / "home.pcap"
    with Lab(1, HOME_HOSTS) as lab:
        start_home(lab)
        now_s = time.monotonic()
        speaker, phone = (Client(lab, name, random.Random(1), now_s, now_s + 300) for name in ("speaker1", "phone1"))
        with Sniffer(lab, capture, HOME):
            assert join(speaker)
            assert join(phone)
            own = address_of(phone)
            assert own is not None
            with announced(speaker):
                found = ""
                while not found and time.monotonic() < phone.end_s:
                    answer = phone.run(sys.executable, str(UPNP), "search", own, "upnp:rootdevice")
                    found = answer.stdout.strip() if answer is not None else ""
                described = phone.run("curl", "-sS", found)
                phone.run("dig", "+tries=3", "-p", "5353", "@224.0.0.251", "_googlecast._tcp.local", "PTR")
            fetch(phone, "https://apps.lab.test/api/v1")
        own_namespaces = [lab.namespace(host.name) for host in HOME_HOSTS]

    assert described is not None
    assert "<friendlyName>speaker1<" in described.stdout
    assert count_packets(capture, "udp port 67") >= 8  # discover, offer, request, acknowledgement; twice
    assert count_packets(capture, "udp src port 1900") >= 6
    assert count_packets(capture, f"udp src port 5353 and not dst port 5353 and dst host {own}") >= 1  # dig's answer
    assert count_packets(capture, f"tcp port 443 and host {own}") >= 8
    assert count_packets(capture, "arp") >= 2
    assert _namespaces().isdisjoint(own_namespaces)


def test_a_question_of_netbios_is_fifty_octets() -> None:
    question = netbios_question(random.Random(1))
    assert len(question) == 50
    assert question[12:46] == b" FHEPFCELEHFCEPFFFACACACACACACABN\0"


@pytest.mark.root
@needs_root
def test_sweep_removes_only_the_lab_of_a_dead_process(lab: Lab) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = f"nslab{dead.pid}-c1"
    subprocess.run(["ip", "netns", "add", stale], check=True)
    sweep_stale_labs()
    assert stale not in _namespaces()
    assert lab.namespace("c1") in _namespaces()


def test_links_survive_their_own_text() -> None:
    links = [Link("a", "b", Impairment(delay_s=0.01, loss=0.5), Impairment(), vlan=7), Link("c", "d")]
    assert load_links(dump_links(links, 3)) == (links, 3)


def test_a_tag_pushed_is_a_tag_popped() -> None:
    assert pop_tag(push_tag(FRAME, 10), 10) == FRAME
    assert pop_tag(push_tag(FRAME, 10), 11) is None
    assert pop_tag(FRAME, 10) is None


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line}
