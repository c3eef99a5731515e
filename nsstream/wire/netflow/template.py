"""Templates: the octets of a template set in, template records out. NetFlow v9 (RFC 3954), IPFIX (RFC 7011 3.4).

What a set holds before its first unreadable record counts; from there on the set is given up, since nothing tells where
the next record starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VARIABLE: Final = 0xFFFF  # as a field's length; IPFIX's, but H3C's v9 uses it too
MAX_FIELDS: Final = 512

V9_TEMPLATES: Final = 0
V9_OPTIONS_TEMPLATES: Final = 1
IPFIX_TEMPLATES: Final = 2
IPFIX_OPTIONS_TEMPLATES: Final = 3
FIRST_DATA_SET: Final = 256
TEMPLATE_SETS: Final = {
    9: (V9_TEMPLATES, V9_OPTIONS_TEMPLATES),
    10: (IPFIX_TEMPLATES, IPFIX_OPTIONS_TEMPLATES),
}


@dataclass(frozen=True, slots=True)
class Field:
    """Where a template has which element."""

    enterprise: int  # 0: IANA's
    element: int
    length: int  # octets, or VARIABLE
    is_scope: bool = False  # of NetFlow v9 options: `element` is a scope type, not an element


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    """One template as exported; without fields it withdraws an earlier one (RFC 7011 8.1)."""

    template_id: int
    fields: tuple[Field, ...]
    is_options: bool
    octets: bytes = b""  # as it stood in its set

    @property
    def is_withdrawal(self) -> bool:
        """Whether the record takes a template back; id 2 or 3: all templates, or all options templates."""
        return not self.fields


def read_template_set(body: bytes, set_id: int) -> tuple[list[TemplateRecord], int]:
    """Read the body of a template set of any of the four kinds.

    Returns:
        the records, in order; and how many records could not be read (0 or 1).
    """
    records: list[TemplateRecord] = []
    at = 0
    is_ipfix = set_id >= IPFIX_TEMPLATES
    is_options = set_id in (V9_OPTIONS_TEMPLATES, IPFIX_OPTIONS_TEMPLATES)
    while len(body) - at >= 4:
        first = at
        template_id, count = _u16(body, at), _u16(body, at + 2)
        if template_id == 0 and not any(body[at:]):
            break  # padding
        if is_ipfix and count == 0:
            if template_id < FIRST_DATA_SET and template_id != set_id:
                return records, 1
            records.append(TemplateRecord(template_id, (), is_options, body[at : at + 4]))
            at += 4
            continue
        at += 4
        scope_count = 0
        if is_options:
            if len(body) - at < 2:
                return records, 1
            scope_count = _u16(body, at)
            at += 2
            if not is_ipfix:  # lengths in octets: of scopes, then of options
                if count % 4 or scope_count % 4:
                    return records, 1
                scope_count, count = count // 4, (count + scope_count) // 4
        if template_id < FIRST_DATA_SET or not 0 < count <= MAX_FIELDS or scope_count > count:
            return records, 1
        fields, at = _read_fields(body, at, count, 0 if is_ipfix else scope_count, is_ipfix=is_ipfix)
        if len(fields) < count:
            return records, 1
        records.append(TemplateRecord(template_id, tuple(fields), is_options, body[first:at]))
    return records, 0


def _read_fields(body: bytes, at: int, count: int, scope_count: int, *, is_ipfix: bool) -> tuple[list[Field], int]:
    """As many of `count` fields as there are octets for, and where they end."""
    fields: list[Field] = []
    while len(fields) < count and len(body) - at >= 4:
        element, length = _u16(body, at), _u16(body, at + 2)
        at += 4
        enterprise = 0
        if is_ipfix and element & 0x8000:
            if len(body) - at < 4:
                break
            element &= 0x7FFF
            enterprise = int.from_bytes(body[at : at + 4], "big")
            at += 4
        fields.append(Field(enterprise, element, length, len(fields) < scope_count))
    return fields, at


def _u16(octets: bytes, at: int) -> int:
    return octets[at] << 8 | octets[at + 1]
