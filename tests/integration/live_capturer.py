"""A process that captures, for the tests: `python live_capturer.py INTERFACE OUTPUT.npz [FANOUT_GROUP MEMBER]`.

It prints ``ready`` once it captures, captures until its standard input ends, drains, and prints what it counted as
JSON. An error is printed in place of ``ready``.
"""

import json
import select
import sys

import numpy as np

from nsstream.capture.live import LiveSource
from nsstream.capture.packet_ring import Fanout
from nsstream.errors import InputError
from nsstream.trace import PacketBatch


def main(interface: str, output: str, group: str = "", member: str = "0") -> int:
    source = LiveSource(interface, fanout=Fanout(int(group), int(member)) if group else None)
    try:
        source.open()
    except InputError as err:
        print(f"error {err}", flush=True)
        return 1
    print("ready", flush=True)
    batches = []
    while not select.select([0], [], [], 0)[0]:
        batch = source.read_batch()
        assert batch is not None
        batches.append(batch)
        source.tally.check()
    source.stop()
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
    source.close()
    source.tally.check()
    np.savez(output, **PacketBatch.concatenate(batches).columns())
    print(json.dumps({"kernel": source.kernel_packet_count, "tally": source.tally.as_dict()}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
