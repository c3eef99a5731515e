"""pmacct: pmacctd exports to nsstream, nfacctd collects what nsstream exports, or hands exports on (`pmacct_tee`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from nsstream_plugins.plugin import Plugin, PluginFile, Scope, made_by, share_directory

EXPORTER: Final = """\
! pmacctd -f FILE -i eth0: IPFIX to nsstream on this machine: nsstream ingest netflow:127.0.0.1:2055 --state STATE.
daemonize: false
plugins: nfprobe[nsstream]
nfprobe_receiver: 127.0.0.1:2055
nfprobe_version: 10
! A flow is told of each minute at least, so that it falls into a chunk of its time.
nfprobe_timeouts: maxlife=60:expint=1
aggregate: src_host,dst_host,src_port,dst_port,proto,tos,tcpflags
"""

COLLECTOR: Final = """\
! nfacctd -f FILE: takes what a twin exports, and prints each minute's flows; of `nsstream send start`:
! --sink '{"kind": "netflow", "address": "127.0.0.1", "port": 9996}'
daemonize: false
nfacctd_ip: 127.0.0.1
nfacctd_port: 9996
plugins: print[twin]
print_output: csv
print_refresh_time: 60
print_history: 1m
print_history_roundoff: m
aggregate: src_host,dst_host,src_port,dst_port,proto,tos,tcpflags
"""


TEE: Final = ("nsstream-tee.conf", "nsstream-tee.lst")


def _files(scope: Scope) -> Sequence[PluginFile]:
    folder = Path("/etc/pmacct") if scope == "system" else share_directory(scope) / "pmacct"
    texts = {"nsstream-export.conf": EXPORTER, "nsstream-collect.conf": COLLECTOR}
    for name in TEE:
        text = (resources.files("nsstream_plugins") / "data" / "pmacct" / name).read_text(encoding="ascii")
        texts[name] = text.replace("/etc/pmacct", str(folder))
    comment = made_by("pmacct").replace("#", "!", 1)
    return [PluginFile(folder / name, (comment + text).encode()) for name, text in texts.items()]


PLUGIN: Final = Plugin(
    name="pmacct",
    tool="pmacctd, nfacctd",
    summary="configurations: pmacctd exports to nsstream, nfacctd collects a twin's exports, or tees",
    files=_files,
    programs=("pmacctd", "nfacctd"),
    next_step="pmacctd -i eth0 -f nsstream-export.conf",
)
