"""Wireshark and tshark: two interfaces of ours beside the real ones (extcap)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nsstream_plugins.extcap.grammar import INTERFACES
from nsstream_plugins.plugin import PROGRAM_MODE, Finding, Plugin, PluginFile, Scope, config_home, made_by

LISTING_S: Final = 0.1  # what a listing may take: Wireshark asks at every start, and waits
TIMEOUT_S: Final = 60.0
START: Final = "import sys; from nsstream_plugins.extcap.__main__ import main; sys.exit(main(sys.argv[1:]))"
FOLDER: Final = {"user": "Personal Extcap path", "system": "(?:Global )?Extcap path"}  # 4.0 tells of the latter alone
SYSTEM_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


def _folder(scope: Scope) -> Path:
    """Where this machine's Wireshark looks; it says so itself, and releases differ."""
    try:
        told = subprocess.run(
            ["tshark", "-G", "folders"], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    found = re.search(rf"^{FOLDER[scope]}s?:\s*(/.+?)\s*$", told, re.MULTILINE)
    if found:
        return Path(found[1])
    if scope == "user":
        return config_home() / "wireshark" / "extcap"
    roots = [Path(root) / "wireshark" for root in SYSTEM_FOLDERS]
    return next((root for root in roots if root.is_dir()), roots[0]) / "extcap"


def _program(name: str) -> bytes:
    """As `plugin.launcher`, but quicker, for ``-m`` takes as long as a listing; and it tells who started it.

    Who did may be gone by the time that Python is up.
    """
    words = " ".join(map(shlex.quote, (sys.executable, "-P", "-c", START, name)))
    return f'#!/bin/sh\n{made_by("wireshark")}exec {words} "$@" --parent "$PPID"\n'.encode()


def _files(scope: Scope) -> Sequence[PluginFile]:
    folder = _folder(scope)
    return [PluginFile(folder / name, _program(name), PROGRAM_MODE) for name in INTERFACES]


def _check(scope: Scope) -> Sequence[Finding]:
    found: list[Finding] = []
    for file in _files(scope):
        name, took_s = file.path.name, LISTING_S
        for _ in range(3):
            began_s = time.monotonic()
            told = _told(str(file.path), "--extcap-interfaces")
            took_s = min(took_s, time.monotonic() - began_s)
        is_listed = f"interface {{value={name}}}" in told
        found.append(Finding(is_listed, f"{name} {'answers' if is_listed else 'does not answer; install it again'}"))
        found.append(Finding(took_s < LISTING_S, f"{name} lists itself in {took_s * 1000:.0f} ms"))
    listed = _told("tshark", "-D")
    found += [
        Finding(f" {name} " in listed, f"tshark -D {'has' if f' {name} ' in listed else 'does not have'} {name}")
        for name in INTERFACES
    ]
    packets = _told("tshark", "-i", "nsstream-synth", "-c", "10", "-T", "fields", "-e", "frame.len").split()
    return [*found, Finding(len(packets) == 10, f"tshark -i nsstream-synth -c 10 gives {len(packets)} packets")]


def _told(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


PLUGIN: Final = Plugin(
    name="wireshark",
    tool="Wireshark, tshark",
    summary="interfaces nsstream-synth (live synthetic traffic) and nsstream-tap (what the daemon takes in)",
    files=_files,
    programs=("tshark",),
    check=_check,
    next_step="tshark -i nsstream-synth -c 10, or choose it in Wireshark (Capture, Refresh Interfaces)",
)
