"""docs/sources.md names every source that is registered, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_page_names_every_source() -> None:
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["nsstream.capture"]
    page = (ROOT / "docs" / "sources.md").read_text()
    named = set(re.findall(r"`([a-z][a-z0-9-]*):[^`/ ]*[^` ]*`", page.partition("## Capture tools")[0]))
    assert named == set(registered) - {"file"}  # a path alone says the same
