"""softflowd: an instance that exports the flows of an interface to nsstream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nsstream_plugins.plugin import Plugin, PluginFile, Scope, made_by, share_directory

TEXT: Final = """\
# softflowd -i eth0 exports to nsstream on this machine: nsstream ingest netflow:127.0.0.1:2055 --state STATE.
# The interface to listen on; "any" is all of them.
interface='any'

# IPFIX, whose times nsstream reads in full. A flow is told of each minute, so that it falls into a chunk of its time;
# expint=1 looks for flows that are over each second. Where a tee hands them on to nfcapd, -v 9: nfcapd 1.7.1 reads the
# times of softflowd's IPFIX wrongly.
options="-n 127.0.0.1:2055 -v 10 -t maxlife=60 -t expint=1"
"""


def _files(scope: Scope) -> Sequence[PluginFile]:
    folder = Path("/etc/softflowd") if scope == "system" else share_directory(scope) / "softflowd"
    return [PluginFile(folder / "nsstream.conf", (made_by("softflowd") + TEXT).encode())]


PLUGIN: Final = Plugin(
    name="softflowd",
    tool="softflowd",
    summary="an instance that exports an interface's flows to nsstream",
    files=_files,
    programs=("softflowd",),
    next_step="systemctl start softflowd@nsstream (system); else: . FILE; softflowd -i $interface $options -d",
)
