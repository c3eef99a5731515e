"""Feed octets that atheris makes up to the NetFlow and IPFIX readers; anything but counts and WireError is a finding.

    python bench/fuzz/netflow_fuzz.py CORPUS [-max_total_time=600]      (pip install nsstream[fuzz])

CORPUS is a directory; where it is empty it is filled with exports made by hand, and with the files in and under SEEDS,
a directory that the environment may name. An input is a number of datagrams, each behind its length in 2 octets.
Besides not crashing, every input must keep the promises: the tally adds up, batches of other sizes give the same rows,
memory stays bounded. The loops run as Python, not compiled: atheris sees their branches, and an index beyond the octets
is an error.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import atheris

with atheris.instrument_imports(include=["nsstream.wire.netflow", "nsstream.trace.flows", "nsstream.counters"]):
    import numpy as np

    from nsstream.errors import WireError
    from nsstream.trace import FlowTable
    from nsstream.wire.netflow import ExportDecoder, MessageSplitter

from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    VARIABLE,
    data_set,
    ipfix,
    options_template_set,
    record,
    template_set,
    v5,
    v5_record,
    v9,
)

MAX_DATAGRAMS = 8
MAX_PARKED_BYTES = 4096


def one_input(octets: bytes) -> None:
    datagrams = unpack(octets)
    whole = ExportDecoder(max_templates=8, max_exporters=4, max_parked_bytes=MAX_PARKED_BYTES)
    apart = ExportDecoder(max_templates=8, max_exporters=4, max_parked_bytes=MAX_PARKED_BYTES)
    together = decode(whole, datagrams)
    singly = FlowTable.concatenate([decode(apart, [datagram]) for datagram in datagrams])
    for name, column in together.columns().items():
        if not np.array_equal(column, getattr(singly, name)):
            raise AssertionError(f"another batching gave another {name}")
    if whole.tally != apart.tally:
        raise AssertionError(f"another batching gave another tally: {whole.tally!r}, {apart.tally!r}")
    splitter = MessageSplitter()
    try:
        splitter.feed(octets)
        splitter.finish()
    except WireError:
        pass


def decode(decoder: ExportDecoder, datagrams: list[bytes]) -> FlowTable:
    flows = decoder.decode(
        np.frombuffer(b"".join(datagrams), np.uint8),
        np.cumsum([0, *map(len, datagrams)], dtype=np.int64),
        np.tile(np.frombuffer(EXPORTER, np.uint8), (len(datagrams), 1)),
        np.full(len(datagrams), NOW_NS, np.int64),
    )
    decoder.tally.check()
    if len(flows) > decoder.tally.kept or decoder.tally.parked * 256 > MAX_PARKED_BYTES:
        raise AssertionError(f"{len(flows)} rows, and a tally of {decoder.tally!r}")
    return flows


def unpack(octets: bytes) -> list[bytes]:
    datagrams = []
    at = 0
    while len(octets) - at >= 2 and len(datagrams) < MAX_DATAGRAMS:
        length = int.from_bytes(octets[at : at + 2], "big")
        datagrams.append(octets[at + 2 : at + 2 + length])
        at += 2 + length
    return datagrams


def pack(*datagrams: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(datagram)) + datagram for datagram in datagrams)


def seeds() -> list[bytes]:
    """Exports of every kind that the readers know."""
    uptime = (*BASE, (22, 4), (21, 4), (48, 2), (6, 2))
    variable = (*BASE, (96, VARIABLE), (2, 4, 29305), (1, 4, 29305), (152, 8), (161, 4))
    six = ((27, 16), (28, 16), (2, 3), (1, 5), (154, 8), (155, 8), (60, 1), (8, 4), (12, 4))
    sampler = options_template_set(10, 300, [(302, 4)], [(305, 4), (306, 4), (160, 8)])
    found = [
        pack(v5(v5_record(), v5_record(), sampling=0x4064)),
        pack(v9(template_set(9, 256, uptime), data_set(256, record(uptime), record(uptime), padding=bytes(1)))),
        pack(v9(data_set(256, record(uptime))), v9(template_set(9, 256, uptime), sequence=1), v9(sequence=9)),
        pack(v9(options_template_set(9, 300, [(1, 4)], [(34, 4)]), data_set(300, bytes(7) + b"\x64"))),
        pack(ipfix(template_set(10, 256, variable), data_set(256, record(variable, {96: b"http"}), record(variable)))),
        pack(ipfix(template_set(10, 257, six), data_set(257, record(six)))),
        pack(ipfix(sampler, data_set(300, struct.pack("!IIIQ", 1, 1, 99, 1)), template_set(10, 256, uptime))),
        pack(ipfix(data_set(2, struct.pack("!HH", 256, 0))), ipfix(data_set(3, struct.pack("!HH", 3, 0)))),
    ]
    for path in sorted(Path(os.environ["SEEDS"]).rglob("*")) if "SEEDS" in os.environ else []:
        if path.is_file() and path.stat().st_size < 1 << 16:  # a datagram
            found.append(pack(path.read_bytes()))
    return found


def main() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        corpus = Path(sys.argv[1])
        corpus.mkdir(parents=True, exist_ok=True)
        if not any(corpus.iterdir()):
            for i, seed in enumerate(seeds()):
                (corpus / f"seed-{i:03}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
