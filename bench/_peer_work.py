"""One generator's run, in a process of its own so that the kernel counts what it costs; see `peers.py`.

python bench/_peer_work.py GENERATOR packets|flows REAL OUTPUT SEED CPU_SECONDS
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from bars.runs import run_main
from peer.generators import GENERATORS
from peer.rows import read_flows, read_packets, write_flows, write_packets


def main() -> int:
    name, kind, real, output, seed, cpu_s = sys.argv[1:]
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # or ctgan prepares its rows in processes that the clock does not see
    warnings.simplefilter("ignore")  # the peers' own, of pandas and scikit-learn
    rows = read_packets(Path(real)) if kind == "packets" else read_flows(Path(real))
    made = GENERATORS[name](rows, int(seed), float(cpu_s))
    enlarged = 0
    if kind == "packets":
        enlarged = write_packets(made, Path(output))
    else:
        write_flows(made, Path(output))
    Path(f"{output}.facts.json").write_text(json.dumps({"rows": len(made), "rows_enlarged": enlarged}))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
