"""SpoolMemory: a spool's ledger without a file; its `handover` is what it knows, as JSON, for a successor to take over.

It knows the files that are there, and those that went within the last hour, at most 4,096 of them: a file may be
renamed or compressed elsewhere and come back. One change costs the same however many files are known: what was handed
over before shares all but a sixty-fourth part with it, and none of it ever changes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, TypeVar

from nsstream.capture.spool_file import HEAD_BYTES, SpoolFile
from nsstream.capture.spool_ledger import Entry, of_same_file, tally_of
from nsstream.counters import Tally
from nsstream.errors import InputError

KEPT_WHEN_GONE_NS: Final = 3600 * 1_000_000_000
MOST_GONE: Final = 4096
MOST_OCTETS: Final = 48 << 20  # as JSON; some 300,000 files

_FORMAT: Final = "spool"
_VERSION: Final = 1
_PARTS: Final = 64
_KEY_OCTETS: Final = 48
_COUNTERS: Final = ("malformed", "unsupported", "dropped")
_DIGEST: Final = re.compile(r"(?:[0-9a-f]{32})?")
_KEY: Final = re.compile(r"(0|[1-9][0-9]{0,19}):(0|[1-9][0-9]{0,19})")

_T = TypeVar("_T")

# Name, size, time of change, octets and digest of the head, whether all is read, counts that are not 0.
_Values = list[Any]
_Part = dict[str, _Values]  # by device and inode; never changed, but replaced


class SpoolMemory:
    """The ledger of one directory; a name is that of one file at a time."""

    def __init__(self) -> None:
        self._parts: list[_Part] = [{}] * _PARTS
        self._names: dict[str, str] = {}
        self._gone_ns: dict[str, int] = {}  # since when, in the order of going
        self._octets = 0
        self._handover: dict[str, Any] | None = None

    def find(self, path: Path, file: SpoolFile) -> Entry | None:
        """What is known of this file: its last entry, or None if it was never begun.

        Raises OSError if it cannot be read.
        """
        key = _key_of(file.device, file.inode)
        values = self._part_of(key).get(key)
        return None if values is None else of_same_file(_entry_of(key, values), path, file)

    def find_name(self, name: str) -> Entry | None:
        """The last entry under that name."""
        key = self._names.get(name)
        return None if key is None else _entry_of(key, self._part_of(key)[key])

    def knows_inode(self, device: int, inode: int) -> bool:
        """Whether any file with that inode was begun."""
        key = _key_of(device, inode)
        return key in self._part_of(key)

    def put(self, entry: Entry, now_ns: int) -> None:
        """Keep in mind how far a file was read."""
        key = _key_of(entry.file.device, entry.file.inode)
        self._gone_ns.pop(key, None)
        self._set(key, _values_of(entry))

    def forget_gone(self, there: Collection[tuple[int, int]], now_ns: int) -> None:
        """Forget files that went long ago, and the first that went where those are many."""
        keys = {_key_of(device, inode) for device, inode in there}
        self._gone_ns = {key: since_ns for key, since_ns in self._gone_ns.items() if key not in keys}
        for part in self._parts:
            for key in part.keys() - keys - self._gone_ns.keys():
                self._gone_ns[key] = now_ns
        too_many = len(self._gone_ns) - MOST_GONE
        for number, (key, since_ns) in enumerate(list(self._gone_ns.items())):
            if number < too_many or now_ns - since_ns >= KEPT_WHEN_GONE_NS:
                self._forget(key)

    def check_room(self) -> None:
        """Raise InputError where no more files can be kept in mind."""
        if self._octets > MOST_OCTETS:
            count = sum(map(len, self._parts))
            raise InputError(f"the spool holds {count:,} files, too many to remember; move those away that were read")

    def close(self) -> None:
        """Do nothing: what is known stays."""

    def handover(self) -> dict[str, Any]:
        """What is known; the same object until something else is."""
        if self._handover is None:
            self._handover = {"format": _FORMAT, "version": _VERSION, "files": list(self._parts)}
        return self._handover

    def take_over(self, handover: object) -> None:
        """Know what another one knew; raises InputError where that is not what one hands over, and learns nothing."""
        if not isinstance(handover, dict):
            raise InputError(f"what was handed over must be a mapping, got {handover!r:.60}")
        if (handover.get("format"), handover.get("version")) != (_FORMAT, _VERSION):
            raise InputError(
                f"what was handed over is {handover.get('format')!r:.60} version {handover.get('version')!r:.60}"
            )
        known: _Part = {}
        names: set[str] = set()
        try:
            for part in _a(list, handover.get("files")):
                for key, values in _a(dict, part).items():
                    entry = _entry_of(key, _a(list, values))
                    if key in known or entry.name in names:
                        raise ValueError(f"{entry.name!r:.60} is told twice")
                    known[key] = _values_of(entry)
                    names |= {entry.name} - {""}
        except ValueError as err:
            raise InputError(f"what was handed over tells of no files of a spool: {err}") from err
        for key, values in known.items():
            self._set(key, values)

    def _set(self, key: str, values: _Values) -> None:
        part = self._part_of(key)
        before = part.get(key)
        if before == values:
            return
        if before is not None:
            self._octets -= _octets_of(before)
            if self._names.get(before[0]) == key:
                del self._names[before[0]]
        other = self._names.pop(values[0], None)
        if other is not None:  # it has another name by now, or is gone
            self._set(other, ["", *self._part_of(other)[other][1:]])
            part = self._part_of(key)
        if values[0]:
            self._names[values[0]] = key
        self._octets += _octets_of(values)
        self._replace(key, part | {key: values})

    def _forget(self, key: str) -> None:
        part = self._part_of(key)
        del self._gone_ns[key]
        self._octets -= _octets_of(part[key])
        if self._names.get(part[key][0]) == key:
            del self._names[part[key][0]]
        self._replace(key, {one: values for one, values in part.items() if one != key})

    def _replace(self, key: str, part: _Part) -> None:
        self._parts[_number_of(key)] = part
        self._handover = None

    def _part_of(self, key: str) -> _Part:
        return self._parts[_number_of(key)]


def _key_of(device: int, inode: int) -> str:
    return f"{device}:{inode}"


def _number_of(key: str) -> int:
    return int(key.partition(":")[2]) % _PARTS


def _octets_of(values: _Values) -> int:
    return len(json.dumps(values)) + _KEY_OCTETS


def _values_of(entry: Entry) -> _Values:
    tally, file = entry.tally, entry.file
    counts = {"kept": tally.kept, **{name: dict(getattr(tally, name)) for name in _COUNTERS}}
    told = {name: count for name, count in counts.items() if count}
    return [entry.name, file.size, file.mtime_ns, entry.head_bytes, entry.head_digest, entry.is_done, told]


def _entry_of(key: str, values: _Values) -> Entry:
    """Raises ValueError where that is not what `_values_of` gave."""
    who = _KEY.fullmatch(_a(str, key))
    if who is None:
        raise ValueError(f"{key!r:.60} is no device and inode")
    if len(values) != 7:
        raise ValueError(f"a file has 7 values, not {len(values)}")
    name, size, mtime_ns, head_bytes, head_digest, is_done, told = values
    if "/" in _a(str, name) or "\0" in name or len(name) > 255 or name in (".", ".."):
        raise ValueError(f"{name!r:.60} is no name of a file")
    if _DIGEST.fullmatch(_a(str, head_digest)) is None:
        raise ValueError(f"{head_digest!r:.60} is no digest")
    file = SpoolFile(int(who[1]), int(who[2]), _number(size), _number(mtime_ns, -(1 << 63)))
    if _number(head_bytes) > HEAD_BYTES:
        raise ValueError(f"a head of {head_bytes} octets is too long")
    return Entry(name, file, head_bytes, head_digest, _a(bool, is_done), _tally_of(_a(dict, told)))


def _tally_of(told: dict[str, Any]) -> Tally:
    if strange := told.keys() - {"kept", *_COUNTERS}:
        raise ValueError(f"{min(map(str, strange))!r:.60} is no count of a file")
    counters = [
        Counter({_a(str, name): _number(count) for name, count in _a(dict, told.get(counter, {})).items()})
        for counter in _COUNTERS
    ]
    return tally_of(_number(told.get("kept", 0)), *counters)


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 1 << 63:
        raise ValueError(f"{value!r:.60} is no whole number from {least}")
    return value


def _a(kind: type[_T], value: object) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.60} is no {kind.__name__}")
    return value
