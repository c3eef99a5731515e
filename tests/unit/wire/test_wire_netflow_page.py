"""docs/netflow.md names every reason; the loops' columns are those of `FlowTable`; the tables of roles fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsstream.trace.fields import FLOW_FIELDS
from nsstream.wire.netflow import columns, elements
from nsstream.wire.netflow.fates import FIRST_UNSUPPORTED, REASONS
from nsstream.wire.netflow.roles import Role

PAGE = (Path(__file__).parents[3] / "docs" / "netflow.md").read_text(encoding="utf-8")


def test_page_names_every_reason_where_it_belongs() -> None:
    malformed, _, rest = PAGE.partition("| unsupported | is |")
    for code, reason in enumerate(REASONS[1:], 1):
        assert f"`{reason}`" in (malformed if code < FIRST_UNSUPPORTED else rest)


def test_every_column_of_a_flow_is_written_with_its_own_dtype() -> None:
    written: dict[str, np.dtype[np.generic]] = {}
    for names, dtype in (
        (columns.INT64, np.int64),
        (columns.UINT64, np.uint64),
        (columns.UINT32, np.uint32),
        (columns.UINT16, np.uint16),
        (columns.UINT8, np.uint8),
    ):
        written |= dict.fromkeys(names, np.dtype(dtype))
    written |= dict.fromkeys(columns.ADDRESSES, np.dtype(np.uint8))
    assert written == {name: dtype for name, (dtype, _, _) in FLOW_FIELDS.items()}


def test_every_element_fills_one_role_only() -> None:
    tables = (elements.IPV4_ADDRESSES, elements.IPV6_ADDRESSES, elements.INTEGERS)
    used = [element for table in tables for candidates in table.values() for element in candidates]
    assert len(used) == len(set(used))


def test_low_halves_of_addresses_follow_the_high_ones() -> None:
    for high in elements.IPV6_ADDRESSES:
        assert Role(high + 1).name == high.name.replace("HIGH", "LOW")
