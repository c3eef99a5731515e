"""The published rules of sources, held to those that come over ZeroMQ: ntop's flows, and pmacct's tee."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from made_netflow import data_set, ipfix, template_set
from nsstream_plugins.ntop import NtopSource
from nsstream_plugins.pmacct_tee import PmacctTeeSource

from nsstream.capture.contract import RULES, SourceCase, check_refusal
from nsstream.capture.source import Source
from nsstream.wire.ntop_message import write_header

FLOWS = 300
STEP = 20
START_S = 1_767_225_600
DEADLINE_MS = 20_000


def free_endpoint() -> str:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{chosen.getsockname()[1]}"


@contextmanager
def bound(kind: zmq.SocketType, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket whose peer has connected, and gets all that was sent before it is closed."""
    with zmq.Context() as context, context.socket(kind) as made:
        made.setsockopt(zmq.LINGER, DEADLINE_MS)
        made.setsockopt(zmq.SNDTIMEO, DEADLINE_MS)
        made.bind(endpoint)
        if kind == zmq.XPUB:
            assert made.poll(DEADLINE_MS)  # the subscription
        yield made


def record(number: int) -> dict[str, Any]:
    return {
        "8": f"10.0.{number >> 8}.{number & 255}", "12": "198.51.100.2", "7": 40000, "11": 53, "4": 17, "2": 1,
        "1": number + 1, "22": START_S, "21": START_S, "152": START_S * 1000 + number, "153": START_S * 1000 + number,
    }  # fmt: skip


def publish(source: Source[Any], _: Path) -> None:
    assert isinstance(source, NtopSource)
    with bound(zmq.XPUB, source.endpoint) as publisher:
        for number, first in enumerate(range(0, FLOWS, STEP), 1):
            payload = json.dumps([record(one) for one in range(first, first + STEP)]).encode()
            size = (24, 28, 36)[number % 3]
            header = write_header(size, 1, number, payload, is_tlv=False, is_zlib=False, unpacked_bytes=len(payload))
            publisher.send_multipart([header, payload])


def tee_frame(payload: bytes, address: str = "192.0.2.7") -> bytes:
    """A datagram as nfacctd 1.7.7 hands it on: destination, checksums and most else are 0."""
    length = 28 + len(payload)
    ip = b"\x45\0" + length.to_bytes(2, "big") + b"\0\0\0\0\xff\x11\0\0" + socket.inet_aton(address) + bytes(4)
    return ip + b"\x92\x92\0\0" + (length - 20).to_bytes(2, "big") + b"\0\0" + payload


def push(source: Source[Any], _: Path) -> None:
    assert isinstance(source, PmacctTeeSource)
    with bound(zmq.PUSH, source.endpoint) as tee:
        for payload in (ipfix(template_set()), *(ipfix(data_set(first, STEP)) for first in range(0, FLOWS, STEP))):
            tee.send(tee_frame(payload))


NTOP_EXPECTED = {
    "source_address": np.array([[*bytes(10), 255, 255, 10, 0, n >> 8, n & 255] for n in range(FLOWS)], np.uint8),
    "octet_delta_count": np.arange(1, FLOWS + 1, dtype=np.uint64),
    "flow_start_ns": START_S * 10**9 + np.arange(FLOWS, dtype=np.int64) * 10**6,
}
TEE_EXPECTED = {
    "source_address": np.array([[*bytes(10), 255, 255, *n.to_bytes(4, "big")] for n in range(FLOWS)], np.uint8),
    "exporter_address": np.tile(np.array([*bytes(10), 255, 255, 192, 0, 2, 7], np.uint8), (FLOWS, 1)),
}
CASES = {
    "ntop": SourceCase(lambda _: NtopSource(free_endpoint()), NTOP_EXPECTED, feed=publish, is_live=True, ends=False),
    "pmacct": SourceCase(lambda _: PmacctTeeSource(free_endpoint()), TEE_EXPECTED, feed=push, is_live=True, ends=False),
}
REFUSALS: dict[str, tuple[Callable[[Path], Source[Any]], str]] = {
    "no scheme": (lambda _: NtopSource("127.0.0.1:5556"), "an endpoint is tcp://"),
    "no port": (lambda _: NtopSource("tcp://127.0.0.1"), "tcp://127.0.0.1"),
    "not ours": (lambda _: NtopSource("tcp://203.0.113.1:5556", bind=True), "cannot be listened at"),
    "pmacct": (lambda _: PmacctTeeSource("inproc://tee"), "an endpoint is tcp://"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", CASES)
def test_source_keeps_the_rule(rule: Callable[[SourceCase, Path], None], name: str, tmp_path: Path) -> None:
    rule(CASES[name], tmp_path)


@pytest.mark.parametrize(("make", "mention"), REFUSALS.values(), ids=REFUSALS.keys())
def test_source_that_cannot_be_opened_says_so_in_one_sentence(
    make: Callable[[Path], Source[Any]], mention: str, tmp_path: Path
) -> None:
    check_refusal(make, tmp_path, mention)
