"""Fuzz the readers of flow files with atheris: whatever the octets, flows, counts, or an error of ours; the laws hold.

    python bench/fuzz/tables_fuzz.py nfcapd|csv [CORPUS] [--seconds N]

Needs the extra `fuzz`. The loops run as plain Python (NUMBA_DISABLE_JIT), so that coverage guides the fuzzer through
them and an index beyond the octets is an IndexError. libFuzzer holds each input to 20 s and the process to 2 GiB. New
inputs are kept in CORPUS, a temporary folder if none is named; a crash leaves its input in the working directory and
exits with a status other than 0.

The first octet of an input says how the rest is cut, and of a table also which preset reads it. Held are: no error but
WireError and InputError; the tally adds up and counts the rows given; another cut gives the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import atheris

with atheris.instrument_imports(
    include=["nsstream.wire.nfcapd", "nsstream.wire.lz", "nsstream.wire.text", "nsstream.capture"]
):
    from nsstream.capture.flow_csv import FlowCsvSource
    from nsstream.capture.flow_presets import PRESETS
    from nsstream.wire.nfcapd import NfcapdReader

from nfcapd_files import block, file_of, flow, generic, ipv6, record

from nsstream.errors import InputError, WireError
from nsstream.trace import FlowTable

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tables.md"
PRESET_NAMES = sorted(PRESETS)


def check_nfcapd(octets: bytes) -> None:
    """Raise AssertionError where a law is broken, and whatever a reader raises that is no WireError."""
    if not octets:
        return
    step = 1 + octets[0]
    stream = octets[1:]
    whole = read_nfcapd([stream])
    parted = read_nfcapd([stream[at : at + step] for at in range(0, len(stream), step)])
    assert whole == parted, f"the whole stream gives {whole}, the split one {parted}"


def read_nfcapd(pieces: list[bytes]) -> tuple[bytes, dict[str, object], str]:
    """Columns as octets, tally, and what the WireError said."""
    reader = NfcapdReader()
    tables: list[FlowTable] = []
    told = ""
    try:
        for piece in [*pieces, b""]:  # a complaint waits behind the last flows
            tables += [FlowTable.from_columns(columns) for columns in reader.feed(piece)]
        reader.finish()
    except WireError as err:
        told = str(err)
    reader.tally.check()
    flows = FlowTable.concatenate(tables)
    assert len(flows) == reader.tally.kept
    return b"".join(column.tobytes() for column in flows.columns().values()), reader.tally.as_dict(), told


def check_csv(octets: bytes) -> None:
    """Raise AssertionError where a law is broken, and whatever the source raises that is no InputError."""
    if not octets:
        return
    choice = octets[0] % (len(PRESET_NAMES) + 1)
    preset = None if choice == len(PRESET_NAMES) else PRESET_NAMES[choice]
    with tempfile.NamedTemporaryFile(dir=SCRATCH) as file:
        file.write(octets[1:])
        file.flush()
        whole, parted = read_csv(file.name, preset, 1 << 16), read_csv(file.name, preset, 1 << 10)
    assert whole == parted, f"blocks of 64 KiB give {whole}, blocks of 1 KiB {parted}"


def read_csv(path: str, preset: str | None, block_bytes: int) -> tuple[bytes, dict[str, object]]:
    """Columns as octets, and the tally."""
    tables: list[FlowTable] = []
    try:
        source = FlowCsvSource(path, preset=preset, block_bytes=block_bytes)
        source.open()
        try:
            while (flows := source.read_batch()) is not None:
                tables.append(flows)
                source.tally.check()
        finally:
            source.close()
    except InputError:
        return b"", {}
    flows = FlowTable.concatenate(tables)
    assert len(flows) == source.tally.kept
    return b"".join(column.tobytes() for column in flows.columns().values()), source.tally.as_dict()


def seeds(kind: str) -> list[bytes]:
    """Files that are right: of every compression, and the example of every preset that the documentation shows."""
    if kind == "nfcapd":
        records = [flow(), record(generic(packets=7), ipv6()), flow(packets=2**40)]
        compressions = ("none", "lzo", "lz4", "bz2", "zstd")
        return [
            b"\x20" + file_of(block(*records, compression=one), block(flow(), compression=one), compression=one)
            for one in compressions
        ]
    examples = DOCS.read_text(encoding="utf-8").split("```")[1::2]
    texts = [example.partition("\n")[2].encode() for example in examples]
    return [bytes([choice]) + text for choice, text in enumerate(texts * 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["nfcapd", "csv"])
    parser.add_argument("corpus", type=Path, nargs="?", default=None)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of 64-bit words that wrap, as they are meant to
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="tables_fuzz_"))
    corpus.mkdir(parents=True, exist_ok=True)
    for i, octets in enumerate(seeds(arguments.kind)):
        (corpus / f"seed-{i}").write_bytes(octets)
    limits = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", f"-max_total_time={arguments.seconds}"]
    check = check_nfcapd if arguments.kind == "nfcapd" else check_csv
    atheris.Setup([sys.argv[0], str(corpus), *limits], check)
    atheris.Fuzz()


SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None

if __name__ == "__main__":
    main()
