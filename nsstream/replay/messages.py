"""The messages of the control protocol: what they hold, and their limits.

Promises: a message that exists is valid; its fields are of the exact types and within the limits below, and nobody
changes them. Their octets are `codec`'s matter; whether a command is allowed *now* is `session`'s; what a sink's fields
mean is `registry`'s, what a testbed's mean `assemble.testbed`'s; whether the files that it names can be used is
`server`'s.

Every message has `v` (protocol version), `id` (chosen by the client, repeated in the reply) and `type`. Commands are
strict: an unknown key is refused, since a misspelt option must not be ignored. Replies are lenient: a client ignores
keys that it does not know, so that a server may say more. `docs/protocol.md` is the specification.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nsstream.replay.paths import MAX_STRING_BYTES as MAX_STRING_BYTES
from nsstream.replay.paths import AbsolutePath as AbsolutePath
from nsstream.replay.rate import Rate
from nsstream.replay.scenario import MAX_TIME_NS, Scenario, StreamSpec

PROTOCOL_VERSION: Final = 2
MIN_PROTOCOL_VERSION: Final = 2

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_ARRAY_LENGTH: Final = 4096
MAX_MAP_LENGTH: Final = 256
MAX_SENTENCE_LENGTH: Final = 1000
MAX_NESTING: Final = 8
MAX_ID: Final = (1 << 63) - 1

MAX_MODELS_A_REPLY: Final = 256
MAX_SUBSCRIBERS: Final = 64
MAX_CONTROLLER_TIMEOUT_S: Final = 3600.0

RefusalCode = Literal[
    "malformed", "version", "unknown-command", "invalid", "state", "controller", "model", "sink", "limit", "internal"
]
State = Literal["idle", "running", "paused", "stopping", "done", "failed", "stopped", "closing"]


def _plain_map(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what the protocol does not carry as a field's value, so that a message that exists can be sent."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING - 1):  # the message itself is a map, too
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if len(node) > MAX_MAP_LENGTH or not all(isinstance(key, str) for key in node):
                    raise ValueError(f"must be a map of at most {MAX_MAP_LENGTH} strings to values")
                below += [*node.keys(), *node.values()]
            elif isinstance(node, list):
                if len(node) > MAX_ARRAY_LENGTH:
                    raise ValueError(f"must have lists of at most {MAX_ARRAY_LENGTH} elements")
                below += node
            elif not _is_plain(node):
                raise ValueError(f"must have plain values: {node!r:.80} is none, or is too large")
        level = below
        if not level:
            return value
    if any(isinstance(node, dict | list) or not _is_plain(node) for node in level):
        raise ValueError(f"must be nested at most {MAX_NESTING - 1} deep, with plain values")
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value.encode()) <= MAX_STRING_BYTES
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 64)


PlainMap = Annotated[dict[str, Any], AfterValidator(_plain_map)]
RequestId = Annotated[int, Field(ge=0, le=MAX_ID)]
Count = Annotated[int, Field(ge=0, le=MAX_ID)]
Version = Annotated[int, Field(ge=1, le=0xFFFF)]
Sentence = Annotated[str, Field(max_length=MAX_SENTENCE_LENGTH)]
Loop = Annotated[int, Field(ge=1, le=MAX_ID)] | None  # how often a stream is played; None: without end
Payload = Literal["template", "zero", "random"]  # of `assemble.catalogue`
Oversize = Literal["clamp", "segment"]
Real = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Counts = Annotated[dict[Annotated[str, Field(max_length=100)], Count], Field(max_length=MAX_MAP_LENGTH)]


class Command(BaseModel):
    """What a client asks for; one reply each."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    v: Version = PROTOCOL_VERSION
    id: RequestId


class Hello(Command):
    """Agree on a protocol version: the client speaks `min_version` to `max_version`, both included."""

    type: Literal["hello"] = "hello"
    min_version: Version = MIN_PROTOCOL_VERSION
    max_version: Version = PROTOCOL_VERSION


class Start(Command):
    """Play a stream into a sink."""

    type: Literal["start"] = "start"
    stream: StreamSpec
    scenario: Scenario = Scenario()
    loop: Loop = 1
    sink: PlainMap  # `kind` names the sink, which knows its other fields: see `registry`
    seed: Annotated[int, Field(ge=0, le=MAX_ID)] = 0
    mtu: Annotated[int, Field(ge=576, le=65_535)] = 1500  # octets of an IP datagram
    payload: Payload = "template"  # of what is drawn
    oversize: Oversize = "clamp"  # what becomes of drawn datagrams beyond the MTU
    testbed: PlainMap | None = None  # a lab's sides, prefixes, VLANs and MACs: see `assemble.testbed`
    rate: Rate = "max"
    # None: the run outlives the client that starts it; else it is stopped once that client is silent for so long
    controller_timeout_s: Annotated[float, Field(ge=0.1, le=MAX_CONTROLLER_TIMEOUT_S)] | None = None
    is_exclusive: bool = False  # whether only the client that starts it may pause, resume, rate, seek and loop


class Stop(Command):
    """End the run; the sink is undone."""

    type: Literal["stop"] = "stop"


class Pause(Command):
    """Let nothing be due until `Resume`."""

    type: Literal["pause"] = "pause"


class Resume(Command):
    """Go on after `Pause`."""

    type: Literal["resume"] = "resume"


class SetRate(Command):
    """Go on at another rate."""

    type: Literal["rate"] = "rate"
    rate: Rate


class Seek(Command):
    """Go on at another time of the twin."""

    type: Literal["seek"] = "seek"
    twin_time_ns: Annotated[int, Field(ge=0, le=MAX_TIME_NS)]


class SetLoop(Command):
    """Play the stream so many times in all."""

    type: Literal["loop"] = "loop"
    loop: Loop


class GetStatus(Command):
    """Ask how the run goes."""

    type: Literal["status"] = "status"


class ListModels(Command):
    """Ask which models the server offers."""

    type: Literal["models"] = "models"
    first: Count = 0  # of all, in the order of their names
    count: Annotated[int, Field(ge=1, le=MAX_MODELS_A_REPLY)] = MAX_MODELS_A_REPLY


class Subscribe(Command):
    """Ask for packets, or for status as it comes."""

    type: Literal["subscribe"] = "subscribe"
    to: Literal["packets", "status"]
    name: Annotated[str, Field(max_length=100)] = ""  # in the status, so that an operator knows who it is


class Shutdown(Command):
    """End the run as `Stop` does, then the server."""

    type: Literal["shutdown"] = "shutdown"


class Reply(BaseModel):
    """What the server answers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    v: Version = PROTOCOL_VERSION
    id: RequestId | None


class Welcome(Reply):
    """To `hello`: the version to speak, the highest that both know."""

    type: Literal["welcome"] = "welcome"
    version: Version
    server: Annotated[str, Field(max_length=100)]


class Accepted(Reply):
    """To `start`, `stop`, `shutdown` and all that changes a run: taken; `status` tells how it goes on."""

    type: Literal["accepted"] = "accepted"
    state: State
    run: Count  # runs started since the server did


class SubscriberStatus(BaseModel):
    """A subscriber of packets, counted in packets since it came; the rest of `offered` is on its way, or waits."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    name: Annotated[str, Field(max_length=100)]
    offered: Count
    confirmed: Count
    missed: Count


class Status(Reply):
    """To `status`, and published: one consistent picture of the newest run."""

    type: Literal["status"] = "status"
    sequence: Count  # rises with every status of this server; of published ones, by one
    state: State
    run: Count
    model_id: Annotated[str, Field(max_length=MAX_STRING_BYTES)] | None  # whose frames are written now
    chunk: Count  # chunks that the sink has begun, 1 to chunk_count while running
    chunk_count: Count | None  # None: without end, or not known
    packets_written: Count
    octets_written: Count  # of frames, without file headers
    twin_start_ns: Count | None  # time of the first frame written, since the Unix epoch
    twin_now_ns: Count | None  # and of the newest
    twin_time_s: Real  # from the first frame written to the newest
    packets_per_s: Real  # mean since the start of the run
    packets_drawn_ahead: Count
    rate: Rate
    late_s: Real  # how long the next frame has been due
    tally: Counts  # what the stream repaired and dropped
    counters: Counts  # what became of the frames in the sink
    subscribers: Annotated[list[SubscriberStatus], Field(max_length=MAX_SUBSCRIBERS)]
    error: Sentence | None  # set in the state "failed", and where the controller was lost


class ModelInfo(BaseModel):
    """A model that the server offers; draws the chunk from `start_ns` to `end_ns`, since the Unix epoch."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")
    id: Annotated[str, Field(max_length=MAX_STRING_BYTES)]
    directory: Annotated[str, Field(max_length=MAX_STRING_BYTES)]
    start_ns: Count
    end_ns: Count


class Models(Reply):
    """To `models`: those from `first` on."""

    type: Literal["models"] = "models"
    total: Count  # directories looked into or to be looked into, over all
    models: Annotated[list[ModelInfo], Field(max_length=MAX_MODELS_A_REPLY)]
    unreadable: Count  # of those looked into for this reply


class Subscription(Reply):
    """To `subscribe`: where to connect to."""

    type: Literal["subscription"] = "subscription"
    endpoint: Annotated[str, Field(max_length=MAX_STRING_BYTES)]
    token: Annotated[str, Field(max_length=100)] | None  # for packets
    next_seq: Count  # of the first item that it gets
    packets_before: Count
    lease_s: Real  # a subscriber of packets that is silent for so long is forgotten


class Refusal(Reply):
    """To a command that is not done; nothing has changed."""

    type: Literal["refused"] = "refused"
    code: RefusalCode
    sentence: Sentence

    @classmethod
    def of(cls, request_id: int | None, code: RefusalCode, sentence: str) -> Refusal:
        """A refusal whose sentence is cut to what the protocol carries."""
        return cls(id=request_id, code=code, sentence=fit_sentence(sentence))


AnyCommand = (
    Hello | Start | Stop | Pause | Resume | SetRate | Seek | SetLoop | GetStatus | ListModels | Subscribe | Shutdown
)
AnyReply = Welcome | Accepted | Status | Models | Subscription | Refusal
COMMANDS: Final[tuple[type[Command], ...]] = get_args(AnyCommand)
REPLIES: Final[tuple[type[Reply], ...]] = get_args(AnyReply)


def fit_sentence(sentence: str) -> str:
    """The sentence on one line, printable, cut to what the protocol carries."""
    line = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    return line if len(line) <= MAX_SENTENCE_LENGTH else line[: MAX_SENTENCE_LENGTH - 1] + "…"
