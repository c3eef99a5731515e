"""Measure how fast flow tables become columns, beside nfdump and the csv module in the same run.

    python bench/tables.py [--flows N] [--json OUT]

Makes its own input in a temporary directory: a file of nfdump 1.7 without compression, which nfdump rewrites with each
of its own and prints as CSV. Files are read once before anything is timed, so all readers find them in the page cache.
Figures are of CPU time, ours of one thread, nfdump's of all that it starts, and the best of the rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.nfcapd_file import NfcapdFileSource

ROUNDS = 3
RECORDS_A_BLOCK = 7_500
RECORD = np.dtype(
    [
        ("head", "<u2", 3),
        ("engine", "u1", 2),
        ("exporter", "<u2"),
        ("flags", "u1", 2),
        ("generic", "<u2", 2),
        ("times", "<u8", 3),
        ("counts", "<u8", 2),
        ("ports", "<u2", 2),
        ("protocol", "u1"),
        ("tcp_flags", "u1"),
        ("status", "u1"),
        ("tos", "u1"),
        ("ipv4", "<u2", 2),
        ("addresses", "<u4", 2),
        ("misc", "<u2", 2),
        ("interfaces", "<u4", 2),
        ("masks", "u1", 8),
        ("numbers", "<u2", 2),
        ("as_numbers", "<u4", 2),
    ]
)


def run(json_path: Path | None, *, flows: int = 1_000_000) -> dict[str, dict[str, float]]:
    """Measure all readers, print a table, and write the figures to `json_path` if there is one."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        plain = Path(directory, "plain")
        write_nfdump_file(plain, flows, np.random.default_rng(0))
        files = {"none": plain}
        for name, option in (("lzo", "-z"), ("lz4", "-y"), ("bz2", "-j")):
            files[name] = Path(directory, name)
            subprocess.run(["nfdump", option, "-q", "-r", plain, "-w", files[name]], check=True, capture_output=True)
        table = Path(directory, "flows.csv")
        with table.open("wb") as out:
            subprocess.run(["nfdump", "-r", plain, "-o", "csv"], check=True, stdout=out)
        read_ours(NfcapdFileSource(plain))  # compiles, or loads what was compiled
        read_ours(FlowCsvSource(table))
        for name, path in files.items():
            results[f"nsstream, nfdump file, {name}"] = measure(
                lambda path=path: read_ours(NfcapdFileSource(path)), flows
            )
            results[f"nfdump -o null, {name}"] = measure(lambda path=path: nfdump(path, "null"), flows)
        results["nfdump -o csv, none"] = measure(lambda: nfdump(plain, "csv"), flows, rounds=1)
        results["nsstream, its CSV"] = measure(lambda: read_ours(FlowCsvSource(table)), flows)
        results["pyarrow.csv, its CSV, no flows made"] = measure(lambda: read_pyarrow(table, flows), flows)
        results["csv.DictReader, its CSV, no flows made"] = measure(
            lambda: read_csv_module(table, flows), flows, rounds=1
        )
        results["table octets"] = {"flows": flows, "csv": table.stat().st_size, "nfdump": plain.stat().st_size}
    show(results)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n")
    return results


def measure(read: Callable[[], int], flows: int, rounds: int = ROUNDS) -> dict[str, float]:
    best_cpu_s = best_wall_s = float("inf")
    for _ in range(rounds):
        cpu_s, wall_s = used_cpu_s(), time.perf_counter()
        count = read()
        best_cpu_s = min(best_cpu_s, used_cpu_s() - cpu_s)
        best_wall_s = min(best_wall_s, time.perf_counter() - wall_s)
        if count not in (flows, 0):
            raise RuntimeError(f"{count} flows of {flows}")
    return {"flows": flows, "cpu_s": best_cpu_s, "wall_s": best_wall_s, "flows_per_cpu_s": flows / best_cpu_s}


def used_cpu_s() -> float:
    """CPU time of this process and of the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read_ours(source: NfcapdFileSource | FlowCsvSource) -> int:
    source.open()
    while source.read_batch() is not None:
        pass
    source.close()
    source.tally.check()
    return source.tally.kept


def nfdump(path: Path, output: str) -> int:
    subprocess.run(["nfdump", "-q", "-r", path, "-o", output], check=True, stdout=subprocess.DEVNULL)
    return 0


def read_pyarrow(path: Path, flows: int) -> int:
    """All columns as text: what parsing lines into cells costs by itself."""
    names = path.open().readline().strip().split(",")
    rows = 0
    with pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),
        parse_options=pa.csv.ParseOptions(invalid_row_handler=lambda _: "skip"),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    ) as reader:
        for batch in reader:
            rows += batch.num_rows
    return min(rows, flows)


def read_csv_module(path: Path, flows: int) -> int:
    with path.open() as file:
        return min(sum(1 for _ in csv.DictReader(file)), flows)


def write_nfdump_file(path: Path, flows: int, rng: np.random.Generator) -> None:
    """Flows of IPv4 with interfaces and AS numbers, as an edge router exports them."""
    records = np.zeros(flows, RECORD)
    records["head"] = (11, RECORD.itemsize, 4)
    records["generic"] = (1, 52)
    records["ipv4"] = (2, 12)
    records["misc"] = (4, 20)
    records["numbers"] = (7, 12)
    starts = 1_700_000_000_000 + np.sort(rng.integers(0, 300_000, flows))
    records["times"] = np.stack([starts, starts + rng.integers(0, 60_000, flows), starts + 60_000], axis=1)
    packets = rng.geometric(0.1, flows)
    records["counts"] = np.stack([packets, packets * rng.integers(40, 1500, flows)], axis=1)
    records["ports"] = np.stack([rng.integers(1024, 65536, flows), rng.choice([53, 80, 443, 22], flows)], axis=1)
    records["protocol"] = rng.choice([6, 17], flows, p=[0.7, 0.3])
    records["tcp_flags"] = np.where(records["protocol"] == 6, rng.choice([2, 16, 24, 27], flows), 0)
    records["addresses"] = (10 << 24) + rng.zipf(1.3, (flows, 2)) % (1 << 24)
    records["interfaces"] = rng.integers(1, 50, (flows, 2))
    records["as_numbers"] = rng.integers(1, 65_000, (flows, 2))
    starts_of_blocks = range(0, flows, RECORDS_A_BLOCK)
    with path.open("wb") as file:
        header = (0xA50C, 2, 0x01070100, 1_700_000_000, 0, 0, 0, 0, 0, 0, len(starts_of_blocks))
        file.write(struct.pack("<HHIQBBHIQII", *header))
        for at in starts_of_blocks:
            block = records[at : at + RECORDS_A_BLOCK]
            file.write(struct.pack("<IIHH", len(block), block.nbytes, 3, 0) + block.tobytes())


def show(results: dict[str, dict[str, float]]) -> None:
    table = Table("reader", "CPU s", "wall s", "flows / CPU s")
    for name, figures in results.items():
        if "cpu_s" in figures:
            table.add_row(
                name, f"{figures['cpu_s']:.3f}", f"{figures['wall_s']:.3f}", f"{figures['flows_per_cpu_s']:,.0f}"
            )
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    results = run(arguments.json, flows=arguments.flows)
    ours = results["nsstream, nfdump file, none"]["flows_per_cpu_s"]
    return 0 if ours >= results["nfdump -o csv, none"]["flows_per_cpu_s"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
