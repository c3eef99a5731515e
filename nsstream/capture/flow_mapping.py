"""TableMapping: what the columns of a text table of flows are called and hold. From a preset, or from a TOML file.

name = "mine"
delimiter = ";"
protocol = "proto"
source_port = "sport"
destination_port = "dport"
packets = "pkts"
octets = "bytes"
[start]
column = "first"
unit = "ms"
[duration]
column = "dur"
unit = "s"
[source_address]
column = "src"
[destination_address]
column = "dst"
"""

from __future__ import annotations

import tomllib
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from nsstream.errors import InputError

# Columns of a flow table that hold a plain number, and may be named under `numbers`.
NUMBER_FIELDS: Final = {
    "ip_class_of_service": 255,
    "flow_end_reason": 255,
    "flow_direction": 255,
    "ingress_interface": 2**32 - 1,
    "egress_interface": 2**32 - 1,
    "bgp_source_as_number": 2**32 - 1,
    "bgp_destination_as_number": 2**32 - 1,
    "source_prefix_length": 128,
    "destination_prefix_length": 128,
    "vlan_id": 2**16 - 1,
    "sampling_interval": 2**32 - 1,
    "observation_domain_id": 2**32 - 1,
}

Column = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeColumn(_Part):
    """A point in time."""

    column: Column
    # iso: 2017-04-11 15:31:29.795 and its like, or seconds; digits: ten of seconds, then those of their fraction
    unit: Literal["s", "ms", "us", "ns", "iso", "digits"] = "iso"


class DurationColumn(_Part):
    """A length of time."""

    column: Column
    unit: Literal["s", "ms", "us", "ns"] = "s"


class AddressColumn(_Part):
    """An address: in text; in text or a name that stands for one; IPv4 as one number; or only its AS number."""

    column: Column
    form: Literal["address", "address_or_name", "ipv4_number", "as_number"] = "address"


class FlagsColumn(_Part):
    """TCP flags: letters or a number; hexadecimal without a mark; Zeek's history; Argus's state, ``FSPA_FSPA``."""

    column: Column
    form: Literal["flags", "hexadecimal", "zeek_history", "argus_state"] = "flags"


class LabelColumn(_Part):
    """What class a flow is of: the texts of these columns, joined by a space; those in `none` say nothing."""

    columns: tuple[Column, ...] = Field(min_length=1)
    none: tuple[str, ...] = ()


class OnlyRows(_Part):
    """Which rows of a table are flows: those that have one of these texts in the column; others are not supported."""

    column: Column
    texts: tuple[str, ...] = Field(min_length=1)


class TableMapping(_Part):
    """Where each field of a flow is in a table, and in which unit or form.

    A flow's times are two of `start`, `end` and `duration`, the duration taking precedence over the end; or one of the
    first two, for flows of an instant. In JSON a column is a key, or ``a.b`` for the key b of the object under a; of a
    list the first element counts. Packets and octets are those of the first direction and of the reverse one, or
    the totals of both. With `totals` only the octets of the first direction are needed beside them: the packets are
    then shared out as the octets are.
    """

    name: Column
    description: str = ""
    delimiter: Literal[",", ";", "\t", "|", " "] = ","
    layout: Literal["csv", "json"] = "csv"  # json: an object a line
    header: tuple[Column, ...] | None = None  # names of the columns of a file that has no line with them
    comment: Annotated[str, StringConstraints(max_length=1)] = ""  # lines that start with it are no rows
    footer: str = ""  # a line that starts with it ends the table
    missing: tuple[str, ...] = ("", "-")
    time_zone: str = "UTC"  # of times in text that do not say theirs
    start: TimeColumn | None = None
    end: TimeColumn | None = None
    duration: DurationColumn | None = None
    source_address: AddressColumn
    destination_address: AddressColumn
    protocol: Column
    protocol_prefix: str = ""  # of every protocol, and not a part of its name
    source_port: Column | None = None
    destination_port: Column | None = None
    # Where ICMP type and code are: type << 8 | code in the destination port; "8.0" there; type in the source port and
    # code in the destination port; as Argus has it: so of ICMPv6, and of ICMPv4 code << 8 | type in the source port;
    # in the columns icmp_type and icmp_code; as Zeek has it: "ports", but for a type that is answered by another the
    # destination port is the answer's type, and nothing tells the code
    icmp: Literal["destination_port", "dotted", "ports", "argus", "columns", "zeek"] = "destination_port"
    icmp_type: Column | None = None
    icmp_code: Column | None = None
    packets: Column | None = None
    octets: Column | None = None
    reverse_packets: Column | None = None
    reverse_octets: Column | None = None
    total_packets: Column | None = None
    total_octets: Column | None = None
    link_header_octets: int = Field(default=0, ge=0, le=256)  # that the octets of each packet count beside IP's
    tcp_flags: FlagsColumn | None = None
    reverse_tcp_flags: FlagsColumn | None = None
    next_hop: AddressColumn | None = None
    exporter: AddressColumn | None = None
    numbers: dict[str, Column] = {}
    label: LabelColumn | None = None
    only: OnlyRows | None = None
    optional: tuple[Column, ...] = ()  # columns that a table may lack

    @field_validator("numbers")
    @classmethod
    def _are_number_fields(cls, numbers: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(numbers) - set(NUMBER_FIELDS)):
            raise ValueError(f"no such number field: {', '.join(unknown)}; there are {', '.join(NUMBER_FIELDS)}")
        return numbers

    @field_validator("time_zone")
    @classmethod
    def _is_time_zone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as err:
            raise ValueError(f"no such time zone: {name!r}; Europe/Madrid, for one, is") from err
        return name

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.start is None and self.end is None:
            raise ValueError("start or end is needed")
        if (self.packets is None) == (self.total_packets is None):
            raise ValueError("either packets or total_packets is needed")
        if (self.total_packets is None) != (self.total_octets is None):
            raise ValueError("total_packets and total_octets go together")
        if self.total_packets is not None and (self.reverse_packets or self.reverse_octets):
            raise ValueError("totals go with the octets of the first direction only")
        if (self.icmp == "columns") != (self.icmp_type is not None and self.icmp_code is not None):
            raise ValueError('icmp_type and icmp_code are needed with icmp = "columns", and only with it')
        return self

    def columns(self) -> frozenset[str]:
        """Every column that is named."""
        return frozenset(self._columns())

    def required_columns(self) -> frozenset[str]:
        """The columns that a table must have."""
        return self.columns() - set(self.optional)

    def _columns(self) -> Iterator[str]:
        for value in (self.start, self.end, self.duration, self.source_address, self.destination_address):
            if value is not None:
                yield value.column
        for part in (self.tcp_flags, self.reverse_tcp_flags, self.next_hop, self.exporter):
            if part is not None:
                yield part.column
        for name in ("protocol", "source_port", "destination_port", "packets", "octets", "reverse_packets"):
            if (column := getattr(self, name)) is not None:
                yield column
        others = (self.reverse_octets, self.total_packets, self.total_octets, self.icmp_type, self.icmp_code)
        yield from (column for column in others if column is not None)
        if self.only is not None:
            yield self.only.column
        yield from self.numbers.values()
        if self.label is not None:
            yield from self.label.columns


def load_mapping(path: Path | str) -> TableMapping:
    """The mapping in a TOML file.

    Raises InputError, one sentence that names the file and the key, if it cannot be read or says what cannot be.
    """
    try:
        return TableMapping.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: not TOML: {err}") from err
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the mapping"
        raise InputError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from err
