"""Sessions: what is known of each exporter and domain, and the templates of all, within bounds.

A session is (exporter address, port of its TCP connection, version, domain): over UDP the port says nothing, since
exporters change it when they restart. When there are more than `max_sessions`, those that were silent longest are
forgotten, and likewise the templates that were announced longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.wire.netflow import messages, state
from nsstream.wire.netflow.alike import kinds_of
from nsstream.wire.netflow.plan import Plan
from nsstream.wire.netflow.sampling import Context
from nsstream.wire.netflow.template import IPFIX_OPTIONS_TEMPLATES, V9_OPTIONS_TEMPLATES

KEY_BYTES: Final = 24
OPTIONS_TEMPLATES: Final = (V9_OPTIONS_TEMPLATES, IPFIX_OPTIONS_TEMPLATES)
_FIRST_ROOM: Final = 64


@dataclass(slots=True)
class Session:
    """One exporter and domain."""

    key: bytes
    number: int  # never used again
    slot: int  # row of the table of state; used again
    context: Context = field(default_factory=Context)
    template_ids: set[int] = field(default_factory=set)

    @property
    def is_tcp(self) -> bool:
        """Whether the exporter's messages come over a connection."""
        return self.key[18] == 1


@dataclass(frozen=True, slots=True)
class Template:
    """A template as it holds now."""

    plan: Plan
    set_id: int  # of the set that it came in: version, and whether it is of options
    octets: bytes  # of its record
    announced_ns: int  # time of receipt, the last time

    @property
    def is_options(self) -> bool:
        """Whether it describes options, not flows."""
        return self.set_id in OPTIONS_TEMPLATES


class Sessions:
    """All sessions and their templates."""

    def __init__(self, max_sessions: int, max_templates: int, template_lifetime_ns: int) -> None:
        self._max_sessions = max_sessions
        self._max_templates = max_templates
        self._lifetime_ns = template_lifetime_ns
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # silent longest first
        self._templates: OrderedDict[int, Template] = OrderedDict()  # announced longest ago first
        self._by_number: dict[int, Session] = {}
        self._next_number = 1
        self._free: list[int] = []
        self.facts = np.empty((0, state.STATE_FACT_COUNT), np.int64)
        self.revision = 0  # grows when templates or contexts are other ones than before
        self._grow(_FIRST_ROOM)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def of_messages(
        self, message_facts: NDArray[np.int64], exporter: NDArray[np.uint8], port: NDArray[np.uint16] | None
    ) -> tuple[list[Session], NDArray[np.int64]]:
        """The sessions of the messages, new ones made, and the index of each message's; -1: it could not be read."""
        n = len(message_facts)
        keys = np.zeros((n, KEY_BYTES), np.uint8)
        keys[:, :16] = exporter
        if port is not None:
            keys[:, 16:18] = port.astype(">u2").view(np.uint8).reshape(n, 2)
            keys[:, 18] = 1
        keys[:, 19] = message_facts[:, messages.VERSION]
        keys[:, 20:] = message_facts[:, messages.DOMAIN].astype(">u4").view(np.uint8).reshape(n, 4)
        is_unread = message_facts[:, messages.VERSION] == 0
        kinds = kinds_of(keys.view(np.uint64), is_unread)
        if kinds is not None:
            index, last = kinds
            heard = {int(k): self.of_key(keys[last[k]].tobytes()) for k in np.argsort(last)}
            return [heard[k] for k in range(len(last))], index
        octets = keys.tobytes()
        index_of: dict[bytes, int] = {}
        index = np.full(n, -1, np.int64)
        for i in np.flatnonzero(~is_unread).tolist():
            key = octets[i * KEY_BYTES : (i + 1) * KEY_BYTES]
            index[i] = index_of.setdefault(key, len(index_of))
            self.of_key(key)
        return [self._sessions[key] for key in index_of], index

    def template(self, session: Session, template_id: int, now_ns: int) -> Template | None:
        """The template of that id, unless it was never announced, or too long ago."""
        template = self._templates.get(session.number << 16 | template_id)
        if template is None or (not session.is_tcp and now_ns - template.announced_ns > self._lifetime_ns):
            return None
        return template

    def holds(self, session: Session, template_id: int, set_id: int, octets: bytes) -> bool:
        """Whether a template that was announced before, however long ago, is this very one."""
        template = self._templates.get(session.number << 16 | template_id)
        return template is not None and (template.set_id, template.octets) == (set_id, octets)

    def announce(self, session: Session, template_id: int, template: Template) -> None:
        """Let a template hold from now on, in place of what had its id."""
        key = session.number << 16 | template_id
        if not self.holds(session, template_id, template.set_id, template.octets):
            self.revision += 1
        self._templates[key] = template
        self._templates.move_to_end(key)
        session.template_ids.add(template_id)
        while len(self._templates) > self._max_templates:
            oldest, _ = self._templates.popitem(last=False)
            self._by_number[oldest >> 16].template_ids.discard(oldest & 0xFFFF)

    def tell(self, session: Session, context: Context) -> None:
        """Let what options said hold from now on."""
        if context is not session.context:
            session.context = context
            self.revision += 1

    def templates(self) -> Iterator[tuple[Session, Template]]:
        """All templates, with whose they are; announced longest ago first."""
        return ((self._by_number[key >> 16], template) for key, template in self._templates.items())

    def withdraw(self, session: Session, template_id: int | None, *, is_options: bool) -> None:
        """Forget a template, or with None all of its kind (RFC 7011 8.1)."""
        ids = list(session.template_ids) if template_id is None else [template_id]
        for i in ids:
            key = session.number << 16 | i
            if key in self._templates and (template_id is not None or self._templates[key].is_options == is_options):
                del self._templates[key]
                session.template_ids.discard(i)
                self.revision += 1

    def trim(self) -> list[int]:
        """Forget sessions beyond the bound; the numbers of those forgotten. Only between batches: slots are reused."""
        forgotten = []
        while len(self._sessions) > self._max_sessions:
            forgotten.append(self._forget(next(iter(self._sessions))))
        return forgotten

    def end(self, exporter: bytes, port: int) -> list[int]:
        """Forget the sessions of a TCP connection that has ended; their numbers."""
        prefix = exporter + port.to_bytes(2, "big") + b"\1"
        return [self._forget(key) for key in [key for key in self._sessions if key.startswith(prefix)]]

    def of_key(self, key: bytes) -> Session:
        """The session of a key, which has just been heard; a new one where there is none."""
        session = self._sessions.get(key)
        if session is None:
            if not self._free:
                self._grow(len(self.facts))
            session = Session(key, self._next_number, self._free.pop())
            self._next_number += 1
            self._sessions[key] = session
            self._by_number[session.number] = session
            self.facts[session.slot] = 0
            self.facts[session.slot, [state.EXPECTED, state.UPTIME_MS, state.STARTED_MS]] = state.UNKNOWN
        self._sessions.move_to_end(key)
        return session

    def _forget(self, key: bytes) -> int:
        session = self._sessions.pop(key)
        for template_id in session.template_ids:
            del self._templates[session.number << 16 | template_id]
        del self._by_number[session.number]
        self.revision += 1
        self._free.append(session.slot)
        return session.number

    def _grow(self, more: int) -> None:
        before = len(self.facts)
        self.facts = np.concatenate([self.facts, np.zeros((more, state.STATE_FACT_COUNT), np.int64)])
        self._free += range(before + more - 1, before - 1, -1)
