"""nfdump: a hook that hands each file of nfcapd's to nsstream, and a synthetic spool that nfdump reads as its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nsstream_plugins.plugin import PROGRAM_MODE, Plugin, PluginFile, Scope, launcher, program_directory


def _files(scope: Scope) -> Sequence[PluginFile]:
    programs = program_directory(scope)
    return [
        PluginFile(programs / "nsstream-nfcapd-rotated", launcher("nfdump", "nsstream_plugins.handover"), PROGRAM_MODE),
        PluginFile(programs / "nsstream-nfcapd-twin", launcher("nfdump", "nsstream_plugins.nfcapd_twin"), PROGRAM_MODE),
    ]


PLUGIN: Final = Plugin(
    name="nfdump",
    tool="nfcapd, nfdump",
    summary="nsstream-nfcapd-rotated, for nfcapd -x; nsstream-nfcapd-twin, a synthetic directory of nfcapd's files",
    files=_files,
    programs=("nfcapd", "nfdump"),
    next_step='nfcapd -w DIR -x "nsstream-nfcapd-rotated SPOOL %d/%f"; nsstream ingest spool:SPOOL -O content=flows',
)
