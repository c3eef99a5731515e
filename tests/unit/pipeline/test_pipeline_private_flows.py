"""Private jobs on flow records: whose units are let in, and which models they may go on from."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.chunk import Chunk
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.pipeline.bounded_units import flow_units_of, let_in
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.privacy_ledger import PrivacyLedger, SpendingRefusedError
from nsstream.pipeline.private_jobs import terms_of
from nsstream.pipeline.private_training import UNSUPPORTED, check_kind
from nsstream.pipeline.training_queue import Job

S = 10**9
SECTION = PrivacySection(mode="private", chunk_epsilon=2.0, horizon_s=86_400.0, most_chunks_of_a_unit=1)


def chunk_of(table) -> Chunk:
    table = table.take(np.argsort(table.flow_end_ns, kind="stable"))
    tally = Tally(offered=len(table), kept=len(table))
    return Chunk.of(START_NS, START_NS + 700 * S, table, tally, is_partial=False)


def job(at: int) -> Job:
    return Job(at, f"digest-{at}", START_NS, START_NS + 700 * S, 1, 0, (f"chunk-{at}",), None)


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_a_unit_that_was_in_as_many_jobs_is_taken_out_with_all_of_its_records(tmp_path: Path, unit: str):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    terms = terms_of(SECTION.model_copy(update={"unit": unit}))
    uses = PrivacyLedger(ledger, ManualClock(START_NS), terms).uses
    table = made_flows(count=120)
    flows = group_by_client(table)
    keys = unit_keys(flows, unit)
    chosen = np.unique(keys, axis=0)[::3]
    is_chosen = (keys[:, None] == chosen).all(axis=2).any(axis=1)
    first = let_in(chunk_of(flows.take(np.flatnonzero(is_chosen)).records), job(1), unit, uses)
    assert first is not None
    assert len(group_by_client(first.flows)) == is_chosen.sum()
    second = let_in(chunk_of(table), job(2), unit, uses)
    assert second is not None
    assert (second.start_ns, second.end_ns, second.kind) == (START_NS, START_NS + 700 * S, "flows")
    kept = unit_keys(group_by_client(second.flows), unit)
    assert {key.tobytes() for key in kept} == {key.tobytes() for key in keys[~is_chosen]}
    assert len(second.flows) == len(flows.take(np.flatnonzero(~is_chosen)).records)
    assert let_in(chunk_of(table), job(3), unit, uses) is None
    ledger.close()


def test_hosts_and_flows_have_hashes_of_their_own():
    flows = group_by_client(made_flows(count=60))
    key = (np.uint64(7), np.uint64(9))
    hosts, ends = flow_units_of(flows, "host", key), flow_units_of(flows, "flow", key)
    assert len(np.unique(hosts)) == len(np.unique(unit_keys(flows, "host"), axis=0))
    assert len(np.unique(ends)) == len(np.unique(unit_keys(flows, "flow"), axis=0))
    assert not set(hosts) & set(ends)


def test_a_model_of_the_other_kind_is_refused_by_name(tmp_path: Path):
    for name, schema in (("flows", FLOW_SCHEMA_ID), ("packets", "packets-9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"schema": schema}))
        check_kind(tmp_path / name, is_of_flows=name == "flows")
        with pytest.raises(SpendingRefusedError, match=f"{name} is a model of") as caught:
            check_kind(tmp_path / name, is_of_flows=name != "flows")
        assert caught.value.reason == UNSUPPORTED
    check_kind(None, is_of_flows=True)
