"""Network namespaces of tests: one that is made and gone again, and one that the calling thread enters for a while."""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
PATIENCE_S = 300.0


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """What is opened within belongs to that network namespace; it stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:  # noqa: PTH123
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@contextmanager
def loopback_namespace() -> Iterator[list[str]]:
    """The beginning of commands that run in a network namespace of the test's own, with nothing but loopback."""
    name = f"nst{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def wait_until(is_so: Callable[[], object]) -> None:
    """Until it is so, or fail."""
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.02)
