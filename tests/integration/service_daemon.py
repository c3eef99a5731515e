"""The daemon, with a trainer and a judge that are quick: ``python service_daemon.py CONFIG``."""

import logging
import sys
from pathlib import Path

from nsstream_daemon.config_file import load_config
from nsstream_daemon.sd_notify import Notifier
from nsstream_daemon.supervisor import Supervisor, set_log_level

from nsstream.clock import SystemClock
from nsstream.errors import NsstreamError

HERE = Path(__file__).parent

if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    logging.basicConfig(format="%(message)s")
    set_log_level(config)
    worker, judge = ((sys.executable, str(HERE / f"quick_{name}.py")) for name in ("worker", "judge"))
    try:
        daemon = Supervisor(Path(sys.argv[1]), config, SystemClock(), Notifier(), worker=worker, judge=judge)
        sys.exit(daemon.run())
    except NsstreamError as err:
        sys.exit(f"nsstream: {err}")
