"""A spool and sources over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spooled import Make

from nsstream.capture.spool import SpoolSource


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture(params=[False, True], ids=["inotify", "polled"])
def make(request: pytest.FixtureRequest, spool: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes and opens sources over the spool and one ledger; closes them."""
    made: list[SpoolSource] = []

    def make_one(**options: object) -> SpoolSource:
        arguments: dict[str, object] = {"is_polled": request.param} | options
        source = SpoolSource(spool, tmp_path / "ledger.sqlite", **arguments)  # type: ignore[arg-type]
        made.append(source)
        source.open()
        return source

    yield make_one
    for source in made:
        source.close()
