"""The bars of replay that have a benchmark, or a test with real tools, of their own: run as it stands, its end told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from bars.verdict import Bar, equal

BENCH: Final = Path(__file__).resolve().parents[1]
ENDS: Final = {0: "all met", 1: "missed", 2: "could not be measured"}
# What each is, and its command behind the interpreter's name.
PARTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "assemble": ("Conversations to frames, scapy in the same run", ("assemble.py",)),
    "draw": ("A model's packets drawn, assembled and written", ("draw.py",)),
    "lawful": ("A twin of a million packets against its real trace, by tshark", ("lawful_million.py",)),
    "exports": (
        "v5, v9 and IPFIX as nfcapd and nfacctd receive them: sequence, flows, packets, octets, times",
        ("-m", "pytest", "-q", "../tests/integration/test_netflow_sink.py"),
    ),
    "control": ("A word takes effect at once, and a stranger's none", ("replay_control.py",)),
    "fuzz": ("A million hostile messages", ("fuzz/control_fuzz.py", "-runs=1000000")),
    "soak": ("Every sink for an hour, and clients that die", ("replay_soak.py",)),
}


def measure_part(name: str) -> list[Bar]:
    """Run a part; its own output is shown."""
    title, command = PARTS[name]
    print(f"\n{title}: {' '.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command], cwd=BENCH, check=False).returncode
    return [equal(f"{name}: {title}", ENDS.get(status, f"ended with {status}"), ENDS[0])]
