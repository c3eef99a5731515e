"""The messages of the control protocol: what they hold, and their limits.

Promises: a message that exists is valid; its fields are of the exact types and within the limits below, and nobody
changes them. Their octets are `codec`'s matter; whether a command is allowed *now* is `session`'s; what a sink's fields
mean is `registry`'s; whether the files that it names can be used is `server`'s.

Every message has `v` (protocol version), `id` (chosen by the client, repeated in the reply) and `type`. Commands are
strict: an unknown key is refused, since a misspelt option must not be ignored. Replies are lenient: a client ignores
keys that it does not know, so that a server may say more. `docs/protocol.md` is the specification.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PROTOCOL_VERSION: Final = 1
MIN_PROTOCOL_VERSION: Final = 1

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_STRING_BYTES: Final = 4096  # PATH_MAX
MAX_ARRAY_LENGTH: Final = 4096
MAX_MAP_LENGTH: Final = 256
MAX_SENTENCE_LENGTH: Final = 1000
MAX_NESTING: Final = 8
MAX_ID: Final = (1 << 63) - 1

RefusalCode = Literal["malformed", "version", "unknown-command", "invalid", "state", "model", "sink", "internal"]
State = Literal["idle", "running", "stopping", "done", "failed", "stopped", "closing"]


def _absolute_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path without NUL")
    if len(path.encode()) > MAX_STRING_BYTES:
        raise ValueError(f"must be at most {MAX_STRING_BYTES} octets long")
    return path


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


AbsolutePath = Annotated[str, Field(min_length=1, max_length=MAX_STRING_BYTES), AfterValidator(_absolute_path)]
PlainMap = Annotated[dict[str, Any], AfterValidator(_plain_map)]
RequestId = Annotated[int, Field(ge=0, le=MAX_ID)]
Count = Annotated[int, Field(ge=0, le=MAX_ID)]
Version = Annotated[int, Field(ge=1, le=0xFFFF)]
Sentence = Annotated[str, Field(max_length=MAX_SENTENCE_LENGTH)]


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
    """Play the models' twins, one chunk a model, in order, into a sink."""

    type: Literal["start"] = "start"
    models: Annotated[list[AbsolutePath], Field(min_length=1, max_length=MAX_ARRAY_LENGTH)]
    sink: PlainMap  # `kind` names the sink, which knows its other fields: see `registry`
    seed: Annotated[int, Field(ge=0, le=MAX_ID)] = 0
    mtu: Annotated[int, Field(ge=576, le=9216)] = 1500  # octets of an IP datagram
    # twin seconds a second: 1.0 is real time, "max" as fast as the sink takes it
    rate: Literal["max"] | Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)] = "max"


class Stop(Command):
    """End the run; the sink is undone."""

    type: Literal["stop"] = "stop"


class GetStatus(Command):
    """Ask how the run goes."""

    type: Literal["status"] = "status"


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
    """To `start`, `stop` and `shutdown`: taken; `status` tells how it goes on."""

    type: Literal["accepted"] = "accepted"
    state: State
    run: Count  # runs started since the server did


class Status(Reply):
    """To `status`: one consistent picture of the newest run."""

    type: Literal["status"] = "status"
    sequence: Count  # rises with every status of this server
    state: State
    run: Count
    model_id: Annotated[str, Field(max_length=MAX_STRING_BYTES)] | None  # whose frames are written now
    chunk: Count  # chunks that the sink has begun, 1 to chunk_count while running
    chunk_count: Count
    packets_written: Count
    octets_written: Count  # of frames, without file headers
    twin_time_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # from the first frame written to the last
    packets_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # mean since the start of the run
    packets_drawn_ahead: Count
    tally: Annotated[dict[Annotated[str, Field(max_length=100)], Count], Field(max_length=MAX_MAP_LENGTH)]
    error: Sentence | None  # set in the state "failed"


class Refusal(Reply):
    """To a command that is not done; nothing has changed."""

    type: Literal["refused"] = "refused"
    code: RefusalCode
    sentence: Sentence

    @classmethod
    def of(cls, request_id: int | None, code: RefusalCode, sentence: str) -> Refusal:
        """A refusal whose sentence is cut to what the protocol carries."""
        return cls(id=request_id, code=code, sentence=fit_sentence(sentence))


AnyCommand = Hello | Start | Stop | GetStatus | Shutdown
AnyReply = Welcome | Accepted | Status | Refusal
COMMANDS: Final[tuple[type[Command], ...]] = (Hello, Start, Stop, GetStatus, Shutdown)
REPLIES: Final[tuple[type[Reply], ...]] = (Welcome, Accepted, Status, Refusal)


def fit_sentence(sentence: str) -> str:
    """The sentence on one line, printable, cut to what the protocol carries."""
    line = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    return line if len(line) <= MAX_SENTENCE_LENGTH else line[: MAX_SENTENCE_LENGTH - 1] + "…"
