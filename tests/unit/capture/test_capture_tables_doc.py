"""docs/tables.md shows what is true: each preset's example, and the mapping, are read as they stand there."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_mapping import load_mapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.trace import FlowTable

PAGE = (Path(__file__).parents[3] / "docs" / "tables.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


def read(source: FlowCsvSource) -> FlowTable:
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
    assert not source.tally.malformed
    return FlowTable.concatenate(batches)


def block_of(text: str, language: str = "") -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", PRESETS)
def test_example_of_each_preset_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text(block_of(SECTIONS[name]))
    assert len(read(FlowCsvSource(path, preset=name))) >= 1


def test_every_preset_has_its_section() -> None:
    assert set(PRESETS) <= set(SECTIONS)
    assert all(f"| [{name}](#{name}) | {preset.description} |" in PAGE for name, preset in PRESETS.items())


def test_mapping_of_the_page_reads_the_table_of_the_page(tmp_path: Path) -> None:
    toml, table = tmp_path / "ours.toml", tmp_path / "ours.csv"
    section = PAGE.partition("## A mapping of your own")[2]
    toml.write_text(block_of(section, "toml"))
    table.write_text(block_of(section.partition("```toml")[2].partition("```\n")[2]))
    flows = read(FlowCsvSource(table, mapping=load_mapping(toml)))
    assert flows.flow_start_ns[0] == 1_767_225_600_123_000_000
    assert flows.flow_end_ns[0] - flows.flow_start_ns[0] == 250_000_000
    assert flows.label_names == ("web",)
    assert flows.ingress_interface[0] == 7
