"""The server's heap and collector: one heap, full collections put off while a run is loaded, no run in a cycle."""

import gc
import json
import platform
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from nsstream.assemble.frames import Frames
from nsstream.clock import ManualClock, SystemClock
from nsstream.replay.codec import encode
from nsstream.replay.conductor import Conductor
from nsstream.replay.feed import PacketFeed
from nsstream.replay.messages import Accepted, Start, Stop
from nsstream.replay.process_memory import LONGEST_LOADING_NS, ProcessMemory
from nsstream.replay.stream import FrameBlock

PATIENCE_S = 300.0
ARENAS = """
import ctypes, json, os, sys, tempfile, threading
from nsstream.replay.process_memory import keep_one_heap
if sys.argv[1] == "one":
    assert keep_one_heap()
held, there = [], threading.Barrier(9)
def hold():
    held.append(bytearray(50_000))
    there.wait()
for _ in range(8):
    threading.Thread(target=hold, daemon=True).start()
there.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(os.dup(file.fileno()), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    file.seek(0)
    print(json.dumps(file.read().count(b"<heap nr=")))
"""


FREED = """
import json, os
from nsstream.clock import ManualClock
from nsstream.replay.process_memory import TRIM_EVERY_NS, ProcessMemory, keep_one_heap
assert keep_one_heap()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
clock, found = ManualClock(), []
memory = ProcessMemory(clock)
blocks = [bytearray(60_000) for _ in range(1600)]
kept = blocks[::16] + [bytearray(60_000)]  # in between, and at the end of the heap
del blocks
for step_ns in (0, TRIM_EVERY_NS - 1, 1):
    clock.advance(step_ns)
    memory.look(has_written=True)
    found.append(resident())
print(json.dumps(found))
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's")


def told_by(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


ARROW = """
import json
from nsstream.replay.process_memory import keep_one_heap
keep_one_heap()
import pyarrow
print(json.dumps(pyarrow.default_memory_pool().backend_name))
"""


PAGES = """
import json, subprocess
from nsstream.replay.process_memory import keep_one_heap
assert keep_one_heap()
of_child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
told = [open("/proc/self/status").read(), of_child]
print(json.dumps([line for status in told for line in status.splitlines() if line.startswith("THP_enabled")]))
"""


def test_arrow_has_no_heap_of_its_own():
    assert told_by(ARROW) == "system"


@needs_glibc
def test_threads_share_the_heaps_that_are_there():
    assert told_by(ARENAS, "one") < told_by(ARENAS, "many")


@needs_glibc
def test_there_are_no_huge_pages_in_this_process_and_its_children():
    assert told_by(PAGES) == ["THP_enabled:\t0"] * 2


@needs_glibc
def test_pages_that_are_free_between_those_that_are_not_go_back():
    before, not_yet, after = told_by(FREED)
    assert not_yet >= before
    assert after < before - 80 * 2**20 * 3 / 4


@pytest.fixture
def memory():
    thresholds = gc.get_threshold()
    clock = ManualClock()
    yield ProcessMemory(clock), clock
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_no_full_collection_while_a_kind_of_run_is_loaded_and_none_of_what_was(memory):
    memory, _ = memory
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    memory.begin("model pcap")
    assert gc.get_threshold()[2] > 1 << 30
    loaded = [[] for _ in range(1000)]
    memory.look(has_written=False)
    assert gc.get_threshold()[2] > 1 << 30
    memory.look(has_written=True)
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() >= frozen + len(loaded)


def test_a_kind_that_was_loaded_is_loaded(memory):
    memory, _ = memory
    thresholds = gc.get_threshold()
    for _ in range(2):
        memory.begin("model pcap")
        memory.settle()
    frozen = gc.get_freeze_count()
    memory.begin("model pcap")
    assert gc.get_threshold() == thresholds
    memory.look(has_written=True)
    assert gc.get_freeze_count() <= frozen


def test_a_run_that_writes_nothing_does_not_put_collections_off_for_ever(memory):
    memory, clock = memory
    thresholds = gc.get_threshold()
    memory.begin("model subscribers")
    clock.advance(LONGEST_LOADING_NS - 1)
    memory.look(has_written=False)
    assert gc.get_threshold() != thresholds
    clock.advance(1)
    memory.look(has_written=False)
    assert gc.get_threshold() == thresholds


class Endless:
    """A frame a millisecond."""

    def __init__(self):
        self.next_ns = 0

    def read(self):
        times = self.next_ns + np.arange(100, dtype=np.int64) * 1_000_000
        self.next_ns += 100_000_000
        return FrameBlock(1, "m", Frames(times, np.arange(101, dtype=np.int64) * 60, np.zeros(6000, np.uint8)))

    def close(self):
        pass


def test_a_run_that_ended_is_gone_without_the_collector():
    ended = threading.Event()
    conductor = Conductor(lambda *args, **kwargs: Endless(), SystemClock(), ended.set, PacketFeed(SystemClock()))
    gc.disable()
    try:
        gone = []
        for k in range(3):
            ended.clear()
            stream = {"kind": "recorded", "path": "/nowhere"}
            reply = conductor.answer(encode(Start(id=k, stream=stream, sink={"kind": "subscribers"}, rate="max")))
            assert isinstance(reply, Accepted), reply
            player = conductor._player
            gone += [weakref.ref(player), weakref.ref(player._sink)]
            del player
            assert isinstance(conductor.answer(encode(Stop(id=k))), Accepted)
            assert ended.wait(PATIENCE_S)
            conductor._player.join(PATIENCE_S)
            conductor.observe()
        assert [ref() is None for ref in gone] == [True] * 4 + [False] * 2
    finally:
        gc.enable()
