"""A service as a service manager starts it: reads exports from the socket that it is passed until SIGTERM.

    python netflow_service.py NUMBERS STATE

Appends the number of each flow (`made_netflow`) to NUMBERS as 8 octets after each batch; goes on from the mark in STATE
and leaves its own there, with its tally.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.sockets import SocketMark, passed_sockets


def main(numbers: Path, state: Path) -> None:
    told_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: told_to_stop.append(True))
    (passed,) = passed_sockets(os.environ, os.getpid())
    before = json.loads(state.read_text())["mark"] if state.exists() else None
    source = NetflowUdpSource(passed=passed.socket, since=SocketMark(**before) if before else None)
    source.open()
    with numbers.open("ab", buffering=0) as file:
        while not told_to_stop and (flows := source.read_batch()) is not None:
            file.write(np.ascontiguousarray(flows.source_address[:, 12:]).view(">u4").astype(np.int64).tobytes())
    source.close()
    source.tally.check()
    assert source.mark is not None
    mark = {"cookie": source.mark.cookie, "drop_count": source.mark.drop_count}
    state.write_text(json.dumps({"mark": mark, "tally": source.tally.as_dict()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
