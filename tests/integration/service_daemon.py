"""The daemon, with a trainer and a judge that are quick: ``python service_daemon.py CONFIG``.

A file ``clock`` in the folder QUICK says by how many seconds its wall clock is wrong. (A time namespace does not shift
CLOCK_REALTIME, and setting the machine's would disturb all else.) A file ``mechanisms`` says what a private job does.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from nsstream_daemon.config_file import load_config
from nsstream_daemon.sd_notify import Notifier
from nsstream_daemon.supervisor import Supervisor, set_log_level

from nsstream.clock import SystemClock
from nsstream.errors import NsstreamError
from nsstream.pipeline.private_training import PrivatePlan, plan
from nsstream.privacy import from_dicts

HERE = Path(__file__).parent
SAID = Path(os.environ["QUICK"]) / "clock"


class WrongClock(SystemClock):
    """The machine's clocks, the wall clock off by what the file says at the moment."""

    def wall_ns(self) -> int:
        wrong_s = int(SAID.read_text()) if SAID.exists() else 0
        return super().wall_ns() + wrong_s * 10**9


def planned(*asked: Any) -> PrivatePlan:
    path = SAID.with_name("mechanisms")
    if not path.exists():
        return plan(*asked)
    mechanisms = json.loads(path.read_text())
    return PrivatePlan(from_dicts(mechanisms), {"mechanisms": mechanisms})


if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    logging.basicConfig(format="%(message)s")
    set_log_level(config)
    worker, judge = ((sys.executable, str(HERE / f"quick_{name}.py")) for name in ("worker", "judge"))
    try:
        path, clock = Path(sys.argv[1]), WrongClock()
        daemon = Supervisor(path, config, clock, Notifier(), worker=worker, judge=judge, planner=planned)
        sys.exit(daemon.run())
    except NsstreamError as err:
        sys.exit(f"nsstream: {err}")
