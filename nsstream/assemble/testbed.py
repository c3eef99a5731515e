"""Testbed: a twin's addresses, VLANs and MACs into those of a lab with two sides, at replay time.

`TestbedSpec` says which prefixes of the twin stand on which side of the lab; `Testbed.apply` rewrites whole frames, of
any origin. What it promises
- A host goes from its prefix into the target prefix and keeps as many of its last bits as there is room for: hosts stay
  apart, and prefixes together, unless the target is narrower, where hosts of equal last bits fall together.
- The gateway of a prefix goes to the target's gateway; no other host takes the gateway's, the network's or the
  broadcast address. Directed broadcast goes to directed broadcast; multicast, limited broadcast, loopback and
  unspecified addresses stay, as do link-local ones of IPv6.
- Frames leave on the side of their source (`Frames.side`: 0 side a, 1 side b), with its VLAN tag, to the MAC of its
  gateway where the destination is on the other side.
- Checksums follow, addresses quoted in ICMP errors and targets of neighbour discovery are mapped too. What payload says
  of addresses is left as it is.
- A frame that is not IP, or has an address of no prefix, is left out and counted; `elsewhere = "keep"` lets the latter
  pass with that address unchanged.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nsstream.assemble.frames import Frames
from nsstream.assemble.rewrite import FATES, RULE, SIDE, measure, rewrite
from nsstream.errors import InputError

MOST_RULES: Final = 64
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Mac = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrefixRule(_Part):
    """A prefix of the twin and where it stands in the lab."""

    prefix: _Network
    target: _Network
    gateway: _Address | None = None  # of the twin's prefix
    target_gateway: _Address | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.prefix.version != self.target.version:
            raise ValueError(f"{self.prefix} and {self.target} are of different IP versions")
        if self.target.num_addresses < 8:
            raise ValueError(f"the target {self.target} is too narrow: it must hold at least 8 addresses")
        if self.target.is_multicast or self.target.is_loopback:
            raise ValueError(f"the target {self.target} is no range of hosts")
        if (self.gateway is None) != (self.target_gateway is None):
            raise ValueError("gateway and target_gateway go together")
        for address, network in ((self.gateway, self.prefix), (self.target_gateway, self.target)):
            if address is not None and address not in network:
                raise ValueError(f"the gateway {address} is not in {network}")
        return self


class SideSpec(_Part):
    """One side of the lab."""

    rules: tuple[PrefixRule, ...] = Field(min_length=1, max_length=MOST_RULES)
    gateway_mac: Mac  # next hop of frames to the other side
    host_mac: Mac | None = None  # source of all frames of this side; None: each host's own
    vlan: Annotated[int, Field(ge=0, le=4094)] | None = None  # 0: untagged; None: tags stay as they are

    @field_validator("gateway_mac", "host_mac")
    @classmethod
    def _is_of_a_station(cls, mac: str | None) -> str | None:
        if mac is not None and int(mac[:2], 16) & 1:
            raise ValueError(f"{mac} is the MAC of a group")
        return mac


class TestbedSpec(_Part):
    """A lab of two sides."""

    __test__ = False  # not a test, whatever pytest makes of the name
    a: SideSpec
    b: SideSpec
    elsewhere: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        rules = self.a.rules + self.b.rules
        prefixes = [rule.prefix for rule in rules]
        if len(set(prefixes)) < len(prefixes):
            raise ValueError("a prefix of the twin is mapped twice")
        for rule in self.a.rules:
            for other in self.b.rules:
                if rule.target.version == other.target.version and rule.target.overlaps(other.target):
                    raise ValueError(f"the targets {rule.target} and {other.target} of both sides overlap")
        return self


def check_testbed(fields: Mapping[str, object]) -> TestbedSpec:
    """Validate a specification; raises InputError with a sentence that names the path of what is wrong."""
    try:
        return TestbedSpec.model_validate(fields)
    except ValidationError as err:
        first = err.errors()[0]
        path = ".".join(map(str, first["loc"])) or "testbed"
        raise InputError(f"testbed: {path}: {first['msg'].removeprefix('Value error, ')}") from err


class Testbed:
    """Applies a specification to frames.

    Attributes:
        tally: frames left out, by reason.
    """

    __test__ = False

    def __init__(self, spec: TestbedSpec) -> None:
        self.tally: Counter[str] = Counter()
        self._keeps_elsewhere = spec.elsewhere == "keep"
        sides = (spec.a, spec.b)
        self._sides = np.zeros(2, SIDE)
        for k, side in enumerate(sides):
            self._sides[k] = (_mac(side.gateway_mac), _mac(side.host_mac), -1 if side.vlan is None else side.vlan)
        rules = [(k, rule) for k, side in enumerate(sides) for rule in side.rules]
        rules.sort(key=lambda item: -item[1].prefix.prefixlen)  # the longest prefix first
        self._rules = np.concatenate([_rule(k, rule) for k, rule in rules])

    def apply(self, frames: Frames) -> Frames:
        """The frames as the lab is to see them; those left out are counted."""
        return self.apply_rows(frames)[0]

    def apply_rows(self, frames: Frames) -> tuple[Frames, NDArray[np.int64]]:
        """As `apply`; and of each which it was of those given."""
        fate, length = measure(frames.octets, frames.offset, self._rules, self._sides, self._keeps_elsewhere)
        self.tally.update({name: n for code, name in FATES.items() if code and (n := int((fate == code).sum()))})
        kept = np.flatnonzero(fate == 0)
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(length[kept])])
        octets = np.empty(int(offset[-1]), np.uint8)
        side = frames.side[kept]
        rewrite(frames.octets, frames.offset, kept, self._rules, self._sides, offset, octets, side)
        return Frames(frames.observation_time_ns[kept], offset, octets, side), kept


def _mac(text: str | None) -> int:
    return -1 if text is None else int(text.replace(":", ""), 16)


def _rule(side: int, rule: PrefixRule) -> NDArray[np.void]:
    row = np.zeros(1, RULE)
    row["side"], row["version"] = side, rule.prefix.version
    gateway, target_gateway = rule.gateway, rule.target_gateway
    row["has_gateway"] = gateway is not None
    for name, address in (
        ("prefix", rule.prefix.network_address),
        ("prefix_mask", rule.prefix.netmask),
        ("target", rule.target.network_address),
        ("target_mask", rule.target.netmask),
        ("gateway", gateway or rule.prefix.network_address),
        ("target_gateway", target_gateway or rule.target.network_address),
    ):
        row[name] = int(address) >> 64, int(address) & (1 << 64) - 1
    return row
