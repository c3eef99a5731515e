"""tcpdump: a pipe that loses nothing at its end, and a program for ``-z`` where AppArmor lets tcpdump start one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nsstream_plugins.plugin import (
    PROGRAM_MODE,
    Finding,
    Plugin,
    PluginFile,
    Scope,
    launcher,
    made_by,
    program_directory,
)

PROFILE: Final = Path("/etc/apparmor.d/usr.bin.tcpdump")
DISABLED: Final = Path("/etc/apparmor.d/disable/usr.bin.tcpdump")
LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")


def _files(scope: Scope) -> Sequence[PluginFile]:
    programs = program_directory(scope)
    return [
        PluginFile(programs / "nsstream-tcpdump", launcher("tcpdump", "nsstream_plugins.piped"), PROGRAM_MODE),
        PluginFile(programs / "nsstream-tcpdump-rotated", _rotated(), PROGRAM_MODE),
    ]


def _rotated() -> bytes:
    """What ``-z`` starts: with a file's name alone, so that the spool stands beside the files, or is told."""
    words = launcher("tcpdump", "nsstream_plugins.handover").decode().splitlines()[-1].removesuffix(' "$@"')
    return (
        f"#!/bin/sh\n{made_by('tcpdump')}"
        "# tcpdump -G 60 -w 'DIR/x-%s.pcap' -z nsstream-tcpdump-rotated: into DIR/spool, or into NSSTREAM_SPOOL.\n"
        f'{words} "${{NSSTREAM_SPOOL:-$(dirname -- "$1")/spool}}" "$1"\n'
    ).encode()


def _check(scope: Scope) -> Sequence[Finding]:
    if not is_confined():
        return [Finding(True, "AppArmor lets tcpdump -z start programs")]
    text = "AppArmor lets tcpdump -z start nothing but gzip and bzip2; use nsstream-tcpdump, or nsstream-dumpcap"
    return [Finding(True, text)]


def is_confined() -> bool:
    """Whether a profile of AppArmor's is in force that keeps tcpdump from starting programs."""
    try:
        return "tcpdump (enforce)" in LOADED.read_text()
    except OSError:  # only root may read it; and where there is no AppArmor there is no such file
        return LOADED.exists() and PROFILE.exists() and not DISABLED.exists()


PLUGIN: Final = Plugin(
    name="tcpdump",
    tool="tcpdump",
    summary="nsstream-tcpdump, its packets into nsstream through a pipe; nsstream-tcpdump-rotated, for -z",
    files=_files,
    programs=("tcpdump",),
    check=_check,
    next_step="nsstream-tcpdump STATE -i eth0",
)
