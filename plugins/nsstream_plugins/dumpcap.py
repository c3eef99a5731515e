"""dumpcap: its ring of files handed to nsstream, one by one, as it closes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nsstream_plugins.plugin import PROGRAM_MODE, Plugin, PluginFile, Scope, launcher, program_directory


def _files(scope: Scope) -> Sequence[PluginFile]:
    path = program_directory(scope) / "nsstream-dumpcap"
    return [PluginFile(path, launcher("dumpcap", "nsstream_plugins.ring"), PROGRAM_MODE)]


PLUGIN: Final = Plugin(
    name="dumpcap",
    tool="dumpcap",
    summary="nsstream-dumpcap, a ring of files into a spool that nsstream reads, each packet once",
    files=_files,
    programs=("dumpcap",),
    next_step="mkdir SPOOL; nsstream-dumpcap SPOOL -i eth0, and beside it: nsstream ingest spool:SPOOL --state STATE",
)
