"""compile: machine code of the inner loops, made before somebody waits for it."""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from nsstream_daemon.bundled_command import capture_of

NSSTREAM: Final = (sys.executable, "-m", "nsstream_daemon")
FEW_PACKETS: Final = 2_000  # which have what there is to compile for: IPv4 and IPv6, TCP, UDP, ICMP
FILE_HEADER, RECORD_HEADER = 24, 16  # octets, of a capture


def compile_ahead() -> None:
    """Compile the inner loops now, which takes minutes and is else done by whatever needs them first.

    Makes a twin of the first packets of the bundled capture and one of their flow records, with one step of training,
    and replays those packets, in a temporary folder. The machine code is kept beside nsstream's modules, in
    NUMBA_CACHE_DIR where that is set, or in the user's cache.
    """
    from nsstream.clock import SystemClock
    from nsstream.errors import OutputError

    clock = SystemClock()
    began_ns = clock.monotonic_ns()
    print("compiling the inner loops, once: two to four minutes on two cores", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix="nsstream-compile-") as name:
            _compile_in(Path(name))
    except OSError as err:
        raise OutputError(f"cannot compile in a temporary folder (TMPDIR names another): {err}") from err
    print(f"done, {(clock.monotonic_ns() - began_ns) / 1e9:.0f} s", file=sys.stderr)


def _compile_in(folder: Path) -> None:
    capture = _first_packets(folder / "few.pcap")
    twin = [*NSSTREAM, "twin", str(capture), "-o", str(folder / "twin.pcap"), "--steps", "1"]
    with subprocess.Popen(twin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as packets:
        try:
            _compile_assembly()
            _compile_flows(capture, folder)
            _compile_replay(capture)
            _, errors = packets.communicate()
        except BaseException:
            packets.terminate()
            packets.wait()  # its files are in a folder that goes now
            raise
    _check(packets.returncode, errors)


def _first_packets(path: Path) -> Path:
    """The first packets of the bundled capture, which is little-endian, as a capture."""
    with capture_of("lab").open("rb") as packed, lzma.open(packed) as capture, path.open("wb") as few:
        few.write(capture.read(FILE_HEADER))
        for _ in range(FEW_PACKETS):
            header = capture.read(RECORD_HEADER)
            (captured_length,) = struct.unpack_from("<I", header, 8)
            few.write(header + capture.read(captured_length))
    return path


def _compile_assembly() -> None:
    import numpy as np

    from nsstream.assemble import Assembler
    from nsstream.trace import ConversationTable

    Assembler(np.random.default_rng(0)).assemble(ConversationTable.empty())


def _compile_flows(capture: Path, folder: Path) -> None:
    _run("chunk", "meter", str(capture), "-o", str(folder / "chunks"))
    (chunk,) = (folder / "chunks").glob("*.arrow")
    _run("train", str(chunk), "-o", str(folder / "models"), "--steps", "1")
    (model,) = (path for path in (folder / "models").iterdir() if path.is_dir())
    _run("draw", str(model), "-o", str(folder / "flows.csv"))


def _compile_replay(capture: Path) -> None:
    from nsstream.pipeline.twin import USUAL_MTU
    from nsstream.replay.frame_meter import FrameMeter
    from nsstream.replay.scenario import Scenario
    from nsstream.replay.streams.recorded import RecordedFile

    meter = FrameMeter(active_timeout_s=60.0, idle_timeout_s=15.0)
    stream = RecordedFile(capture, Scenario(), seed=0, mtu=USUAL_MTU, passes=2)  # the second with new flows
    try:
        while (block := stream.read()) is not None:
            meter.push(block.frames)
    finally:
        stream.close()


def _run(*arguments: str) -> None:
    result = subprocess.run([*NSSTREAM, *arguments], capture_output=True, text=True, check=False)
    _check(result.returncode, result.stderr)


def _check(status: int, errors: str) -> None:
    """Raise `OutputError` where a part did not end well, in that part's words."""
    from nsstream.errors import OutputError

    if status != 0:
        raise OutputError(f"cannot compile, status {status}: {errors.strip()[-500:]}")
