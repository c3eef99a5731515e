"""What to play, as plain fields: `StreamSpec` says where frames come from, `Scenario` what is made of them.

Promises: a specification that exists is valid within itself: exact types, limits, no unknown key. Whether the models
and files that it names can be used is found out when the stream is opened. Hosts and prefixes are those of the twin,
as the address map made them. Loads neither torch nor numpy.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nsstream.replay.paths import AbsolutePath

MAX_MODELS: Final = 4096
MAX_PARTS: Final = 64
MAX_FILTERS: Final = 1024
MAX_CANDIDATES: Final = 64
MAX_TIME_NS: Final = (1 << 32) * 1_000_000_000 - 1  # what a pcap record can say: until 2106
PROTOCOLS: Final = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "sctp": 132}
WITH_PORTS: Final = (6, 17, 132)
_SERVICE: Final = re.compile(r"(?P<name>[a-z0-9]{1,8})(/(?P<low>\d{1,5})(-(?P<high>\d{1,5}))?)?", re.ASCII)


class Service(NamedTuple):
    """A protocol, and the responder's ports `low` to `high`."""

    protocol: int
    low: int
    high: int


def parse_service(text: str) -> Service:
    """Read ``tcp/443``, ``udp/8000-8100``, ``icmp``, or a protocol by its number, ``89``; ValueError if it is none."""
    found = _SERVICE.fullmatch(text)
    name = found["name"] if found else ""
    protocol = int(name) if name.isdigit() else PROTOCOLS.get(name, -1)
    if found is None or not 0 <= protocol <= 255:
        raise ValueError(f"must be like tcp/443, udp/8000-8100, icmp or 89, got {text!r:.40}")
    if found["low"] is None:
        return Service(protocol, 0, 65_535)
    low, high = int(found["low"]), int(found["high"] or found["low"])
    if protocol not in WITH_PORTS or not low <= high <= 65_535:
        raise ValueError(f"ports are those of tcp, udp and sctp, 0 to 65535, the lower first, got {text!r:.40}")
    return Service(protocol, low, high)


def _is_service(text: str) -> str:
    parse_service(text)
    return text


def _is_prefix(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as err:
        raise ValueError(f"must be an address or a prefix such as 10.0.0.0/8: {err}") from err
    return text


ServiceText = Annotated[str, Field(max_length=20), AfterValidator(_is_service)]
Candidates = Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | Literal["auto"]
PrefixText = Annotated[str, Field(max_length=50), AfterValidator(_is_prefix)]


class Spec(BaseModel):
    """Base of all here: strict, frozen, no unknown key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ModelsSpec(Spec):
    """A sequence of chunks, one a model, at their own times; a pass is the whole sequence."""

    kind: Literal["models"] = "models"
    models: Annotated[list[AbsolutePath], Field(min_length=1, max_length=MAX_MODELS)]
    gaps: Literal["kept", "squeezed"] = "kept"  # what lies between chunks that do not touch


class ModelSpec(Spec):
    """One model, chunk after chunk without end, each drawn anew."""

    kind: Literal["model"] = "model"
    model: AbsolutePath


class FollowSpec(Spec):
    """Always the newest promoted model of a directory, chunk after chunk without end (see `model.promotion`)."""

    kind: Literal["follow"] = "follow"
    directory: AbsolutePath
    wait_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0  # for the first model to be promoted


class RecordedSpec(Spec):
    """A capture file, pcap or pcapng, compressed or not; a pass is the whole file."""

    kind: Literal["recorded"] = "recorded"
    path: AbsolutePath


class Part(Spec):
    """A model, and its weight in the mix."""

    model: AbsolutePath
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class MixSpec(Spec):
    """Several models at once, without end: of each the share of its conversations that its weight is of all weights."""

    kind: Literal["mix"] = "mix"
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


StreamSpec = Annotated[ModelsSpec | ModelSpec | FollowSpec | RecordedSpec | MixSpec, Field(discriminator="kind")]


class Attack(Spec):
    """A model whose conversations are blended in until they make up a share of all packets."""

    model: AbsolutePath
    share: Annotated[float, Field(gt=0, lt=1)]  # of the packets, in the long run
    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")] = "attack"
    labels: AbsolutePath | None = None  # a CSV file, a line an attacking flow
    overwrite: bool = False  # whether labels that exist are replaced


class Limits(Spec):
    """Where a stream ends that would go on; None: nowhere."""

    packets: Annotated[int, Field(ge=1, le=1 << 62)] | None = None
    octets: Annotated[int, Field(ge=1, le=1 << 62)] | None = None  # of frames
    twin_s: Annotated[float, Field(gt=0, le=1e9)] | None = None  # from the first frame


class Scenario(Spec):
    """What is made of a stream; the defaults leave it as it is."""

    start_ns: Annotated[int, Field(ge=0, le=MAX_TIME_NS)] | None = None  # the twin's time at its start; None: its own
    time_compression: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0  # 60.0: an hour of traffic within a minute
    services: Annotated[list[ServiceText], Field(min_length=1, max_length=MAX_FILTERS)] | None = None  # None: all
    hosts: Annotated[list[PrefixText], Field(min_length=1, max_length=MAX_FILTERS)] | None = None  # one end is of these
    flows: Annotated[float, Field(ge=0.001, le=100)] = 1.0  # conversations for one of the model's
    candidates: Candidates | None = None  # see `Drawer`; None: as many as it has by itself
    clients: Literal["same", "more"] = "same"  # who has the conversations beyond the model's: its clients, or new ones
    limits: Limits = Limits()
    attack: Attack | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.clients == "more" and self.flows <= 1:
            raise ValueError("more clients need flows > 1")
        return self


def check_agreement(spec: StreamSpec, scenario: Scenario, loop: int | None) -> None:
    """Raise ValueError if a stream of this kind cannot be played in this scenario so often (`loop`; None: forever)."""
    if isinstance(spec, RecordedSpec):
        if scenario.flows > 1:
            raise ValueError("scenario.flows: a recording has no more flows than it has; models can draw more")
        if scenario.candidates is not None:
            raise ValueError("scenario.candidates: a recording is not drawn")
        if scenario.attack is not None:
            raise ValueError("scenario.attack: an attack is blended into what models draw, not into a recording")
    elif not isinstance(spec, ModelsSpec) and loop not in (1, None):
        raise ValueError(f"loop: a stream of kind {spec.kind} has no end, and no passes; set scenario.limits")
