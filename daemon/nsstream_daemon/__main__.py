"""``python -m nsstream_daemon`` is ``nsstream``."""

from nsstream_daemon.cli import main

main()
