"""Framing: how a run's frames are made, as `open_stream` is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nsstream.assemble.testbed import TestbedSpec, check_testbed
from nsstream.errors import InputError
from nsstream.replay.messages import Oversize, Payload
from nsstream.replay.scenario import RecordedSpec, StreamSpec


@dataclass(frozen=True, slots=True)
class Framing:
    """What is lawful beyond what a stream says.

    Args:
        mtu: octets of the longest IP datagram.
        payload: what drawn packets carry; see `assemble.catalogue`.
        oversize: what becomes of drawn datagrams beyond the MTU; see `assemble.Assembler`.
        testbed: a lab's addresses, VLANs and MACs in place of the stream's own; None: as they are.
    """

    mtu: int = 1500
    payload: Payload = "template"
    oversize: Oversize = "clamp"
    testbed: TestbedSpec | None = None

    @classmethod
    def of(
        cls,
        stream: StreamSpec,
        mtu: int,
        payload: Payload,
        oversize: Oversize,
        testbed: Mapping[str, object] | None,
    ) -> Framing:
        """That of a command; raises InputError with a sentence that names the path of what cannot be."""
        if isinstance(stream, RecordedSpec):
            for name, is_default in (("payload", payload == "template"), ("oversize", oversize == "clamp")):
                if not is_default:
                    raise InputError(f"{name}: the frames of a recording are made already; models can be told")
        return cls(mtu, payload, oversize, None if testbed is None else check_testbed(testbed))
