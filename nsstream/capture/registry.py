"""Sources by name: `open_source` makes one from a text such as ``tcpdump:eth0``; anybody's distribution adds names.

A name is an entry point of the group ``nsstream.capture``; ours are registered in the same way. It loads to a callable
that takes the text behind the colon, and options by keyword, and gives a `Source`, not opened yet::

    [project.entry-points."nsstream.capture"]
    napatech = "nsstream_napatech:NapatechSource"        # then: open_source("napatech:0", snaplen=96)

Two texts need no name: ``-`` is a capture on standard input, and what is no name is the path of a file, whose first
octets tell what it is: a capture, a file of nfcapd, a table; or of a FIFO that a capture is written to. Nothing is
imported before it is asked for.
"""

from __future__ import annotations

import codecs
import inspect
import re
import stat
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from nsstream.capture.compression import STREAM_ERRORS, open_decompressed
from nsstream.capture.source import Source
from nsstream.errors import InputError

GROUP: Final = "nsstream.capture"

_SPEC: Final = re.compile(r"([a-z][a-z0-9-]*):(.*)", re.DOTALL)
_NFCAPD_MAGICS: Final = (b"\x0c\xa5", b"\xa5\x0c")
_HEAD_BYTES: Final = 512
_LEAST_HEADER_BYTES: Final = 8  # shorter than the header line of any table of flows

AnySource = Source[Any]


def source_names() -> list[str]:
    """The names that are registered, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def open_source(spec: str, **options: Any) -> AnySource:
    """The source that a text names; like every new source it is inert until its `open`.

    Args:
        spec: ``name:target``, ``-``, or a path.
        options: of the source's own, by keyword.

    Raises InputError where there is no such name, it cannot be loaded, or it does not take the options.
    """
    if spec == "-":
        from nsstream.capture.pipe import PipeSource

        return _make("standard input", PipeSource, spec, options)
    found = _SPEC.fullmatch(spec)
    if found is not None and found[1] in source_names():
        return _make(found[1], _load(found[1]), found[2], options)
    path = Path(spec)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as err:
        if found is None:
            reason = err.strerror if isinstance(err, OSError) else str(err)
            raise InputError(f"{spec}: cannot be read: {reason}") from err
        names = ", ".join(source_names()) or "none: install nsstream, or install it again"
        raise InputError(f"{spec}: there is no source {found[1]!r}, and no such file; sources: {names}") from err
    if stat.S_ISDIR(mode):
        raise InputError(f"{spec}: is a directory; `spool:{spec}` reads the captures that come into it")
    return _make(spec, _reader_of(path, mode), spec, options)


def _reader_of(path: Path, mode: int) -> Callable[..., AnySource]:
    """What reads the file at that path, by its kind and first octets."""
    if not stat.S_ISREG(mode):
        from nsstream.capture.pipe import PipeSource

        return PipeSource
    head = _head_of(path)
    if head[:2] in _NFCAPD_MAGICS:
        from nsstream.capture.nfcapd_file import NfcapdFileSource

        return NfcapdFileSource
    if _is_text(head):
        from nsstream.capture.flow_csv import FlowCsvSource

        return FlowCsvSource
    from nsstream.capture.pcap_file import PcapFileSource

    return PcapFileSource


def _head_of(path: Path) -> bytes:
    """The first octets of a file, decompressed; none where it is empty or corrupt."""
    try:
        file = open_decompressed(path)
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err
    buffer = bytearray(_HEAD_BYTES)
    try:
        return bytes(buffer[: file.readinto1(memoryview(buffer))])
    except STREAM_ERRORS:
        return b""  # the source that reads it says what is wrong with it
    finally:
        file.close()


def _is_text(head: bytes) -> bool:
    """Whether the octets are a line of text at least, as a table begins."""
    line = head.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0].removesuffix(b"\r")
    return len(line) >= _LEAST_HEADER_BYTES and all(octet >= 32 or octet == 9 for octet in line)


def _load(name: str) -> Callable[..., AnySource]:
    points = list(entry_points(group=GROUP, name=name))
    if len({point.value for point in points}) > 1:
        owners = " and ".join(sorted(map(_owner, points)))
        raise InputError(f"the source {name!r} is registered by {owners}; uninstall all but one")
    try:
        made = points[0].load()
    except (ImportError, AttributeError) as err:
        raise InputError(f"the source {name!r} of {_owner(points[0])} cannot be loaded: {err}") from err
    if not callable(made):
        raise InputError(f"the source {name!r} of {_owner(points[0])} is not callable: {points[0].value}")
    return made  # type: ignore[no-any-return]  # whatever a plugin's factory gives, its contract test judges


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _make(name: str, factory: Callable[..., AnySource], target: str, options: dict[str, Any]) -> AnySource:
    signature = inspect.signature(factory)
    try:
        signature.bind(target, **options)
    except TypeError as err:
        known = ", ".join(list(signature.parameters)[1:]) or "none"
        raise InputError(f"{name}: {err}; options: {known}") from err
    try:
        return factory(target, **options)
    except (TypeError, ValueError) as err:
        raise InputError(f"{name}: {err}") from err
