"""What a plan makes of a source's text: whether it is live, what may be lost, and what makes it the same."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nsstream.pipeline.ingest_plan import IngestPlan
from nsstream.pipeline.service_config import ChunksSection, SourceSection


def plan_of(text: str, **fields: object) -> IngestPlan:
    return IngestPlan(SourceSection.model_validate({"input": text} | fields), ChunksSection())


def test_followed_file_is_live_and_the_same_source_when_it_was_rotated(tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    plan = plan_of(f"eve:{path}")
    before_it_came = (plan.is_live, plan.identity)
    path.write_text("{}\n")
    assert plan.follows
    there = (plan.is_live, plan.identity)
    path.rename(tmp_path / "eve.json.1")
    path.write_text("{}\n")
    assert (plan.is_live, plan.identity) == there == before_it_came == (True, f"eve:{path}")
    assert not plan_of(f"eve:{path}", live=False).is_live


@pytest.mark.parametrize("name", ["", "csv:", "file:"])
def test_file_that_is_read_once_is_known_by_its_inode(name: str, tmp_path: Path) -> None:
    path = tmp_path / "flows.csv"
    path.write_text("ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes\n")
    plan = plan_of(f"{name}{path}")
    assert not plan.follows
    assert not plan.is_live
    before = plan.identity
    path.rename(tmp_path / "old")
    path.write_text("another")
    assert plan.identity != before


def test_socket_is_no_place_whether_it_is_there_or_not(tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    plan = plan_of(f"eve-socket:{path}")
    before = (plan.place, plan.is_live, plan.identity)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert (plan.place, plan.is_live, plan.identity) == before == (None, True, f"eve-socket:{path}")


def test_source_that_cannot_be_made_follows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("x")
    assert not plan_of(f"tail:{path}", options={"preset": "none of ours"}).follows
