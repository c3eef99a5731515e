"""ExportDecoder: datagrams of NetFlow v5, v9 and IPFIX in, flow records out. Sans-IO.

Rules: (1) datagrams come in batches; batches of other sizes give the same rows, in the same order; (2) rows are in the
order of arrival, and those of a set that waited for its template stand where the template came; (3) a template, and
what an options record says, holds for what comes after it; (4) every record is in `tally`, and what cannot be read is
counted by name; no octets raise an error; (5) memory is bounded by the arguments, and by about 40 octets of columns for
each octet of the batch at worst (4 where records are as exporters make them).

Sources: Cisco's NetFlow v5, RFC 3954 (v9), RFC 7011 and 7012 (IPFIX), RFC 5103 (biflow), RFC 5477 (sampling).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.counters import Tally
from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import fates, handover, messages, plan, sampling, state
from nsstream.wire.netflow.batch import Batch
from nsstream.wire.netflow.choosing import choose_by_kind
from nsstream.wire.netflow.columns import FlowColumns
from nsstream.wire.netflow.fates import add_fate, add_fates
from nsstream.wire.netflow.messages import read_messages
from nsstream.wire.netflow.parking import ParkedSet, Parking
from nsstream.wire.netflow.plan import Plan
from nsstream.wire.netflow.planned import PlannedSets
from nsstream.wire.netflow.reading import count_records
from nsstream.wire.netflow.records import read_records
from nsstream.wire.netflow.sequence import follow_sequence
from nsstream.wire.netflow.sessions import Session, Sessions, Template
from nsstream.wire.netflow.statistics import ExporterStatistics
from nsstream.wire.netflow.template import FIRST_DATA_SET, TEMPLATE_SETS
from nsstream.wire.netflow.v5 import v5_plan

_SECOND_NS: Final = 1_000_000_000
_LONGEST_PADDING: Final = 3


class ExportDecoder:
    """All exporters that send to one place.

    Args:
        template_lifetime_s: how long a template holds over UDP after it was last announced (RFC 7011 8.4: at least
            three times the exporters' own interval, which is 10 to 30 minutes by default).
        max_templates: of all exporters; those announced longest ago give way.
        max_exporters: exporters and domains; those that were silent longest give way.
        max_parked_bytes: of data sets that wait for their template; the oldest give way.
        max_parked_age_s: how long a data set may wait.
        max_clock_error_s: how far the end of a flow may lie from the time of receipt. One that is farther off is moved
            there with its start, and flagged `TimeQuality.CLAMPED`.
    """

    def __init__(
        self,
        *,
        template_lifetime_s: float = 5400,
        max_templates: int = 4096,
        max_exporters: int = 4096,
        max_parked_bytes: int = 16 << 20,
        max_parked_age_s: float = 1800,
        max_clock_error_s: float = 3600,
    ) -> None:
        for name, value in (
            ("template_lifetime_s", template_lifetime_s),
            ("max_templates", max_templates),
            ("max_exporters", max_exporters),
            ("max_clock_error_s", max_clock_error_s),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be > 0, got {value!r}")
        self.tally = Tally()
        self._sessions = Sessions(max_exporters, max_templates, round(template_lifetime_s * _SECOND_NS))
        self._parking = Parking(max_parked_bytes, round(max_parked_age_s * _SECOND_NS))
        self._max_clock_error_ns = round(max_clock_error_s * _SECOND_NS)
        self._now_ns = 0  # the latest time of receipt
        self._v5 = v5_plan()
        self._planned = PlannedSets()

    @property
    def exporters(self) -> list[ExporterStatistics]:
        """What is known of each exporter and domain; the one that was silent longest first."""
        return [ExporterStatistics.of(session, self._sessions.facts[session.slot]) for session in self._sessions]

    @property
    def revision(self) -> int:
        """Grows when a successor would have to be told something new: of templates and options, not of their age."""
        return self._sessions.revision

    def handover(self, *, is_final: bool = False) -> dict[str, Any]:
        """What is known of the exporters, as values for JSON, for the `take_over` of a decoder that goes on.

        `is_final`: nothing is decoded after it; then sequence numbers and what is parked go along.
        """
        sessions = self._sessions
        return handover.write(sessions, sessions.facts, sessions.templates(), self._parking, is_final=is_final)

    def take_over(self, value: object, now_ns: int) -> None:
        """Know what another decoder knew; before anything is decoded.

        What has expired by `now_ns`, of the receiver's clock, is not revived. Raises WireError where `value` is not
        what `handover` gave; then nothing of it is known.
        """
        known = handover.read(value)
        planned: list[tuple[handover.KnownTemplate, int, Plan]] = []
        for i, told in enumerate(known.templates):
            records, _ = self._planned.of(told.set_id, told.octets)
            if len(records) != 1 or records[0][1] is None or records[0][0].octets != told.octets:
                raise WireError(f"template {i}: its octets are no record of a template")
            planned.append((told, records[0][0].template_id, records[0][1]))
        sessions = [self._sessions.of_key(one.key) for one in known.sessions]
        for session, one in zip(sessions, known.sessions, strict=True):
            self._sessions.tell(session, one.context)
            columns = [state.STARTED_MS, state.EXPECTED, state.UPTIME_MS]
            self._sessions.facts[session.slot, columns] = one.started_ms, one.expected, one.uptime_ms
        for told, template_id, how in planned:
            template = Template(how, told.set_id, told.octets, min(told.announced_ns, now_ns))
            self._sessions.announce(sessions[told.session], template_id, template)
        for parked in known.parked:
            since_ns = min(parked.since_ns, now_ns)
            self._now_ns = max(self._now_ns, since_ns)
            self.tally.offered += 1
            self.tally.parked += 1
            mine = replace(parked, session_number=sessions[parked.session_number].number, since_ns=since_ns)
            self._unpark(fates.NO_TEMPLATE, self._parking.park(mine))
        self._unpark(fates.NO_TEMPLATE, self._parking.expire(now_ns))
        self._unpark(fates.NO_TEMPLATE, self._parking.forget(self._sessions.trim()))

    def decode_message(self, message: bytes, exporter: bytes, receive_time_ns: int) -> FlowTable:
        """Decode one datagram; `exporter` is 16 octets, IPv4-mapped."""
        return self.decode(
            np.frombuffer(message, np.uint8),
            np.array([0, len(message)], np.int64),
            np.frombuffer(exporter, np.uint8).reshape(1, 16),
            np.array([receive_time_ns], np.int64),
        )

    def decode(
        self,
        octets: NDArray[np.uint8],
        offset: NDArray[np.int64],
        exporter: NDArray[np.uint8],
        receive_time_ns: NDArray[np.int64],
        exporter_port: NDArray[np.uint16] | None = None,
    ) -> FlowTable:
        """Decode n datagrams, or messages of TCP connections.

        Args:
            octets: datagram i is ``octets[offset[i]:offset[i + 1]]``.
            offset: (n + 1,), rising.
            exporter: (n, 16) addresses, IPv4-mapped.
            receive_time_ns: (n,) since the Unix epoch.
            exporter_port: (n,) for messages of TCP connections, which each have templates of their own that do not
                expire and may be withdrawn; call `end_connection` when one ends. None for datagrams.

        Raises:
            ValueError: the arrays do not belong together.
        """
        n = len(offset) - 1
        if exporter.shape != (n, 16) or len(receive_time_ns) != n:
            raise ValueError(f"{n} datagrams need exporters {(n, 16)} and times {(n,)}, got {exporter.shape} and "
                             f"{receive_time_ns.shape}")  # fmt: skip
        if offset[0] < 0 or offset[-1] > len(octets) or (offset[1:] < offset[:-1]).any():
            raise ValueError("offset must rise and stay inside the octets")
        counts = np.zeros(len(fates.REASONS), np.int64)
        message_facts, sets = read_messages(octets, offset, receive_time_ns, counts)
        sessions, session_of_message = self._sessions.of_messages(message_facts, exporter, exporter_port)
        batch = Batch(octets, message_facts, exporter, sessions, session_of_message, sets)
        is_waiting = len(self._parking) > 0
        if not choose_by_kind(batch, self._sessions, self._planned, self._v5, is_waiting=is_waiting):
            self._resolve(batch)
        self._now_ns = max(self._now_ns, batch.latest_ns)
        flows = self._read(batch, counts)
        add_fates(self.tally, counts)
        self._unpark(fates.NO_TEMPLATE, self._parking.expire(self._now_ns))
        self._unpark(fates.NO_TEMPLATE, self._parking.forget(self._sessions.trim()))
        return flows

    def end_connection(self, exporter: bytes, exporter_port: int) -> None:
        """Forget what a TCP connection told, which has ended; data that still waited is counted as malformed."""
        numbers = self._sessions.end(exporter, exporter_port)
        self._unpark(fates.NO_TEMPLATE, self._parking.forget(numbers))

    def _resolve(self, batch: Batch) -> None:
        """Find the plan of each data set, in order; templates and options take effect on what follows."""
        receive_ns = batch.messages[:, messages.RECEIVE_NS].tolist()
        message_of_set = batch.sets[:, messages.MESSAGE].tolist()
        session_of_message = batch.session_of_message.tolist()
        for s, (m, set_id) in enumerate(zip(message_of_set, batch.sets[:, messages.ID].tolist(), strict=True)):
            session = batch.sessions[session_of_message[m]]
            if set_id == messages.V5_SET:
                batch.choose(s, self._v5, session.context)
                continue
            self._now_ns = max(self._now_ns, receive_ns[m])
            if set_id >= FIRST_DATA_SET:
                known = self._sessions.template(session, set_id, receive_ns[m])
                if known is None:
                    self._park(batch, s, session, set_id)
                elif known.is_options:
                    start, end = batch.sets[s, messages.START :].tolist()
                    count = self._apply_options(session, known.plan, batch.octets, start, end)
                    batch.options_records[m] = batch.options_records.get(m, 0) + count
                else:
                    batch.choose(s, known.plan, session.context)
            elif set_id in TEMPLATE_SETS[session.key[19]]:
                self._announce(batch, session, set_id, batch.body(s), receive_ns[m])
            else:
                add_fate(self.tally, fates.RESERVED_SET, 1)

    def _announce(self, batch: Batch, session: Session, set_id: int, body: bytes, receive_ns: int) -> None:
        self._unpark(fates.NO_TEMPLATE, self._parking.expire(self._now_ns))
        records, unreadable = self._planned.of(set_id, body)
        if unreadable:
            add_fate(self.tally, fates.BAD_TEMPLATE, unreadable)
        for record, how in records:
            if how is None:  # over UDP nothing says that it is not older than what it withdraws (RFC 7011 8.4)
                if session.is_tcp:
                    one = record.template_id if record.template_id >= FIRST_DATA_SET else None
                    self._sessions.withdraw(session, one, is_options=record.is_options)
                continue
            self._sessions.announce(session, record.template_id, Template(how, set_id, record.octets, receive_ns))
            for parked in self._parking.take(session.number, record.template_id):
                if record.is_options:
                    body_octets = np.frombuffer(parked.body, np.uint8)
                    self._apply_options(session, how, body_octets, 0, len(parked.body))
                    self._unpark(fates.PARKED_OPTIONS, 1)
                else:
                    self.tally.parked -= 1  # its records are counted when they are read
                    self.tally.offered -= 1
                    batch.add(parked, session, how)

    def _apply_options(self, session: Session, how: Plan, octets: NDArray[np.uint8], start: int, end: int) -> int:
        """Take in what the options records of a set say; how many there are."""
        options = sampling.read_options(octets, start, end, how)
        if how.facts[plan.FATE] == fates.KEPT:
            for values in options:
                self._sessions.tell(session, session.context.after(values))
        return len(options)

    def _park(self, batch: Batch, s: int, session: Session, set_id: int) -> None:
        m = int(batch.sets[s, messages.MESSAGE])
        batch.unread.add(m)
        body = batch.body(s)
        if len(body) <= _LONGEST_PADDING:
            return
        self._unpark(fates.NO_TEMPLATE, self._parking.expire(self._now_ns))
        self.tally.offered += 1
        self.tally.parked += 1
        exporter = batch.exporter[m].tobytes()
        parked = ParkedSet(session.number, set_id, batch.messages[m].copy(), exporter, body, self._now_ns)
        self._unpark(fates.NO_TEMPLATE, self._parking.park(parked))

    def _unpark(self, fate: int, count: int) -> None:
        if count:
            self.tally.parked -= count
            add_fate(self.tally, fate, count, is_new=False)

    def _read(self, batch: Batch, counts: NDArray[np.int64]) -> FlowTable:
        """Read the records of the chosen sets, and follow the sequence numbers."""
        laid_out = batch.lay_out()
        facts, fields, first = laid_out.facts, laid_out.fields, laid_out.first
        record_count = np.zeros(len(laid_out.sets), np.int64)
        count_records(laid_out.octets, laid_out.sets, laid_out.plan_of_set, facts, fields, first, record_count, counts)
        columns = FlowColumns.with_room_for(int(record_count.sum()))
        kept = read_records(
            laid_out.octets,
            laid_out.messages,
            laid_out.exporter,
            laid_out.slot_of_message,
            laid_out.sets,
            laid_out.plan_of_set,
            laid_out.context_of_set,
            record_count,
            facts,
            fields,
            first,
            laid_out.contexts,
            laid_out.samplers,
            self._sessions.facts,
            self._max_clock_error_ns,
            counts,
            columns.int64,
            columns.uint64,
            columns.uint32,
            columns.uint16,
            columns.uint8,
            columns.addresses,
        )
        message_of_set = laid_out.sets[:, messages.MESSAGE]
        np.add.at(self._sessions.facts[:, state.RECORDS], laid_out.slot_of_message[message_of_set], record_count)
        follow_sequence(
            batch.messages,
            batch.units(message_of_set, record_count),
            laid_out.slot_of_message,
            self._sessions.facts,
        )
        return columns.table(kept)
