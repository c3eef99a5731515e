"""ChildSource with real children: what they give, lose, refuse, and leave behind."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture.child import ChildSource, dumpcap_command, tcpdump_command
from nsstream.errors import InputError
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
START_NS = 1_700_000_000_000_000_000


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return written(tmp_path / "trace.pcap", 3)


def written(path: Path, count: int) -> Path:
    offset = np.arange(count + 1, dtype=np.int64) * len(FRAME)
    times_ns = START_NS + np.arange(count, dtype=np.int64)
    path.write_bytes(pcap_header() + write_records(times_ns, offset, np.frombuffer(FRAME * count, np.uint8)))
    return path


def shell(script: str) -> ChildSource:
    return ChildSource(["sh", "-c", script])


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until_s, "it did not become so within 10 s"
        time.sleep(0.01)


def kept_by(source: ChildSource) -> int:
    """How many packets come to the end."""
    count = 0
    while (batch := source.read_batch()) is not None:
        count += len(batch)
        source.tally.check()
    return count


def test_packets_come_and_losses_are_told_by_place(capture: Path) -> None:
    source = shell(f"cat {shlex.quote(str(capture))}; echo '7 packets dropped by kernel' >&2; "
                   "echo '2 packets dropped by interface' >&2")  # fmt: skip
    source.open()
    assert kept_by(source) == 3
    assert source.read_batch() is None
    source.close()
    source.tally.check()
    assert (source.tally.offered, source.tally.kept, dict(source.tally.dropped)) == (12, 3, {"ring": 7, "nic": 2})


def test_idle_child_gives_empty_batches(capture: Path) -> None:
    source = shell(f"cat {shlex.quote(str(capture))}; exec sleep 60")
    source.open()
    counts = [len(source.read_batch() or []) for _ in range(3)]
    source.close()
    assert counts == [3, 0, 0]


def test_chatty_child_does_not_block(capture: Path) -> None:
    source = shell(f"head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; cat {shlex.quote(str(capture))}")
    source.open()
    assert kept_by(source) == 3
    source.close()


def test_close_ends_the_whole_group_even_what_ignores_sigterm(tmp_path: Path, capture: Path) -> None:
    pids = tmp_path / "pids"
    source = shell(
        f"(trap '' TERM; sh -c 'echo $$ >> {pids}; exec sleep 1000') & echo $$ >> {pids}; cat {capture}; wait; wait"
    )
    source.open()
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    source.read_batch()
    source.close()
    source.close()
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not is_running(pid))  # the grandchild's corpse may wait for init


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_nobody_took_is_counted(tmp_path: Path) -> None:
    capture = written(tmp_path / "large.pcap", 200_000)
    source = ChildSource(["cat", str(capture)], buffer_bytes=1 << 16)
    source.open()
    batch = source.read_batch()
    assert batch is not None
    kept = len(batch)
    source.close()
    source.tally.check()
    assert source.tally.kept == kept
    assert source.tally.dropped["channel"] > 0
    assert source.tally.offered <= 200_000


def test_losses_that_the_stream_and_the_tool_tell_are_counted_once(tmp_path: Path) -> None:
    """As dumpcap does: an interface statistics block in the stream, and a sum on standard error."""
    section = bytes.fromhex("0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000")
    interface = bytes.fromhex("01000000 14000000 0100 0000 00000400 14000000")
    statistics = bytes.fromhex("05000000 28000000 00000000 0000000000000000 0500 0800 0900000000000000 00000000")
    statistics = statistics[:-4] + bytes.fromhex("00000000 28000000")
    path = tmp_path / "end.pcapng"
    path.write_bytes(section + interface + statistics)
    told = "Packets received/dropped on interface 'lo': 0/9 (pcap:4/dumpcap:3/flushed:2/ps_ifdrop:0) (0.0%)"
    source = shell(f"cat {shlex.quote(str(path))}; echo {shlex.quote(told)} >&2")
    source.open()
    assert kept_by(source) == 0
    assert source.tally.offered == 9
    assert dict(source.tally.dropped) == {"ring": 4, "tool": 5}

    source = ChildSource(["cat", str(path)])
    source.open()
    assert kept_by(source) == 0
    assert dict(source.tally.dropped) == {"tool": 9}


def test_cut_stream_counts_its_last_record(capture: Path) -> None:
    source = ChildSource(["head", "-c", "-5", str(capture)])
    source.open()
    assert kept_by(source) == 2
    assert dict(source.tally.malformed) == {"cut_record": 1}


def test_missing_tool_is_refused() -> None:
    with pytest.raises(InputError, match=r"^nsstream-no-such-tool is not installed, or not in PATH$"):
        ChildSource(["nsstream-no-such-tool"]).open()


def test_tool_that_may_not_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be started: Permission denied"):
        ChildSource([str(tmp_path)]).open()


def test_refusal_is_told_in_the_tool_s_own_words() -> None:
    source = shell("echo 'sh: eth9: No such device exists' >&2; exit 1")
    with pytest.raises(InputError, match=r"^sh ended with status 1: eth9: No such device exists"):
        source.open()
    source.close()


def test_failure_behind_packets_is_told_after_they_were_given(capture: Path) -> None:
    source = shell(f"cat {shlex.quote(str(capture))}; echo 'pcap_loop: The interface disappeared' >&2; exit 1")
    source.open()
    with pytest.raises(InputError, match=r"^sh ended with status 1: pcap_loop: The interface disappeared$"):
        kept_by(source)
    assert source.tally.kept == 3
    source.close()


def test_tool_that_was_killed_is_told(capture: Path) -> None:
    source = shell(f"cat {shlex.quote(str(capture))}; kill -KILL $$")
    source.open()
    with pytest.raises(InputError, match=r"^sh was ended by SIGKILL"):
        kept_by(source)


def test_tool_that_writes_no_capture_is_refused_and_ended() -> None:
    source = ChildSource(["yes"])
    source.open()
    with pytest.raises(InputError, match=r"^yes: neither pcap nor pcapng"):
        source.read_batch()
    source.close()


def test_child_is_not_in_our_group(capture: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    source = shell(f"echo $$ > {pid_file}; cat {capture}; exec sleep 60")
    source.open()
    pid = int(pid_file.read_text())
    assert os.getpgid(pid) == pid != os.getpgid(0)
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(InputError, match="was ended by SIGTERM"):
        kept_by(source)


def test_descriptors_beyond_what_select_knows_work(capture: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        source = shell(f"cat {shlex.quote(str(capture))}; echo 'gone' >&2; exit 1")
        source.open()
        with pytest.raises(InputError, match="gone"):
            kept_by(source)
        assert source.tally.kept == 3
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_commands_are_what_the_tools_take() -> None:
    assert tcpdump_command("eth0", capture_filter="-v or udp", snaplen=96)[-2:] == ["--", "-v or udp"]
    assert "96" in tcpdump_command("eth0", snaplen=96)
    assert dumpcap_command("eth0", capture_filter="udp")[-2:] == ["-f", "udp"]
    with pytest.raises(ValueError, match="must name a tool"):
        ChildSource([])


def test_reading_before_opening_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="before open"):
        ChildSource(["true"]).read_batch()
