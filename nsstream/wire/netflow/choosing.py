"""Choosing: the plans of all sets of a batch at once, where nothing in the batch changes what holds.

That is nearly always so: exporters send data, and now and then the templates that they sent before. Where a batch has
anything else (a template that is new, options, data without a template) nothing is done here, and the sets have to be
taken one by one.
"""

from __future__ import annotations

import numpy as np

from nsstream.wire.netflow import messages
from nsstream.wire.netflow.alike import kinds_of
from nsstream.wire.netflow.batch import Batch, Choice
from nsstream.wire.netflow.plan import Plan
from nsstream.wire.netflow.planned import PlannedSets
from nsstream.wire.netflow.sessions import Session, Sessions, Template
from nsstream.wire.netflow.template import FIRST_DATA_SET, TEMPLATE_SETS


def choose_by_kind(batch: Batch, sessions: Sessions, planned: PlannedSets, v5: Plan, *, is_waiting: bool) -> bool:
    """Choose the plan of every data set, and renew the templates that came again; whether that could be done.

    Args:
        batch: all of it, or nothing.
        sessions: of its exporters.
        planned: template sets that are known.
        v5: the plan of version 5.
        is_waiting: some set waits for a template, which may be among those that come again.
    """
    session_of_set = batch.session_of_message[batch.sets[:, messages.MESSAGE]]
    set_ids = batch.sets[:, messages.ID]
    rows = (session_of_set << 32 | set_ids & 0xFFFFFFFF).view(np.uint64).reshape(-1, 1)
    kinds = kinds_of(rows, np.zeros(len(rows), np.bool_))
    if kinds is None:
        return False
    kind_of_set, last = kinds
    receive_ns = batch.messages[:, messages.RECEIVE_NS]
    latest_ns = int(receive_ns.max(initial=0))
    choices: list[Choice | None] = []
    for s in last.tolist():
        session, set_id = batch.sessions[session_of_set[s]], int(set_ids[s])
        if set_id == messages.V5_SET:
            choices.append((v5, session.context))
        elif set_id >= FIRST_DATA_SET:
            known = sessions.template(session, set_id, latest_ns)
            if known is None or known.is_options:
                return False
            choices.append((known.plan, session.context))
        elif set_id in TEMPLATE_SETS[session.key[19]] and not is_waiting:
            choices.append(None)
        else:
            return False
    renewed: list[tuple[Session, int, Template]] = []
    is_template = np.array([choice is None for choice in choices], np.bool_)[kind_of_set]
    for s in np.flatnonzero(is_template).tolist():
        session, set_id = batch.sessions[session_of_set[s]], int(set_ids[s])
        records, unreadable = planned.of(set_id, batch.body(s))
        if unreadable:
            return False
        for record, how in records:
            if how is None or not sessions.holds(session, record.template_id, set_id, record.octets):
                return False
            at_ns = int(receive_ns[batch.sets[s, messages.MESSAGE]])
            renewed.append((session, record.template_id, Template(how, set_id, record.octets, at_ns)))
    for session, template_id, again in renewed:
        sessions.announce(session, template_id, again)
    batch.choose_by_kind(kind_of_set, choices)
    return True
