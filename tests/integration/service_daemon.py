"""The daemon, with a trainer and a judge that are quick: ``python service_daemon.py CONFIG``.

A file ``clock`` in the folder QUICK says by how many seconds its wall clock is wrong. (A time namespace does not shift
CLOCK_REALTIME, and setting the machine's would disturb all else.)
"""

import logging
import os
import sys
from pathlib import Path

from nsstream_daemon.sd_notify import Notifier
from nsstream_daemon.supervisor import Supervisor, set_log_level

from nsstream.clock import SystemClock
from nsstream.errors import NsstreamError
from nsstream.pipeline.config_file import load_config

HERE = Path(__file__).parent
SAID = Path(os.environ["QUICK"]) / "clock"


class WrongClock(SystemClock):
    """The machine's clocks, the wall clock off by what the file says at the moment."""

    def wall_ns(self) -> int:
        wrong_s = int(SAID.read_text()) if SAID.exists() else 0
        return super().wall_ns() + wrong_s * 10**9


if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    logging.basicConfig(format="%(message)s")
    set_log_level(config)
    worker, judge = ((sys.executable, str(HERE / f"quick_{name}.py")) for name in ("worker", "judge"))
    try:
        daemon = Supervisor(Path(sys.argv[1]), config, WrongClock(), Notifier(), worker=worker, judge=judge)
        sys.exit(daemon.run())
    except NsstreamError as err:
        sys.exit(f"nsstream: {err}")
