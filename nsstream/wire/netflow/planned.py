"""PlannedSets: template sets that were read and planned already, since exporters send the same ones again and again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from nsstream.wire.netflow import plan
from nsstream.wire.netflow.plan import Plan, plan_flows, plan_options
from nsstream.wire.netflow.template import TemplateRecord, read_template_set

_MOST_SETS: Final = 512
_LARGEST_BYTES: Final = 4096

PlannedTemplates = tuple[list[tuple[TemplateRecord, Plan | None]], int]


class PlannedSets:
    """The sets that were read last."""

    def __init__(self) -> None:
        self._sets: OrderedDict[tuple[int, bytes], PlannedTemplates] = OrderedDict()

    def of(self, set_id: int, body: bytes) -> PlannedTemplates:
        """The templates of a set, with their plans, and how many could not be read. A withdrawal has no plan."""
        planned = self._sets.get((set_id, body))
        if planned is not None:
            self._sets.move_to_end((set_id, body))
            return planned
        records, unreadable = read_template_set(body, set_id)
        plans: list[tuple[TemplateRecord, Plan | None]] = []
        for record in records:
            how = None
            if not record.is_withdrawal:
                how = plan_options(record.fields) if record.is_options else plan_flows(record.fields)
                if how.facts[plan.RECORD_LENGTH] == 0:
                    unreadable += 1
                    continue
            plans.append((record, how))
        if len(body) <= _LARGEST_BYTES:
            self._sets[set_id, body] = plans, unreadable
            if len(self._sets) > _MOST_SETS:
                self._sets.popitem(last=False)
        return plans, unreadable
