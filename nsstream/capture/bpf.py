"""Capture filters: the tcpdump language into a classic BPF program for the kernel.

Promises: `compile_filter` gives a program that a packet socket can attach as it is, or raises InputError with the
compiler's own message. libpcap compiles it where its shared library is there, else the tcpdump program does
(``tcpdump -ddd``).

Two things differ between what libpcap compiles and what the kernel sees:

- On a cooked socket the kernel runs a program on the network header, so that offsets behind the made-up link header
  move, and its packet type and protocol become ancillary loads (linux/filter.h).
- The kernel has taken the outermost VLAN tag off. libpcap knows that only of an interface that it has opened, so an
  expression with ``vlan`` is compiled for the open interface; that needs CAP_NET_RAW, as capturing does.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import socket
import struct
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import InputError
from nsstream.wire.filter_machine import accepted, check_program
from nsstream.wire.link import LINUX_SLL

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
MAX_CHARACTERS: Final = (
    1 << 14
)  # libpcap takes cubic time; so many are 700 hosts, about what the kernel takes, and 15 s
_SO_ATTACH_FILTER: Final = 26

# linux/filter.h, linux/bpf_common.h
_LD_W_ABS: Final = 0x20
_LD_H_ABS: Final = 0x28
_LD_B_ABS: Final = 0x30
_LD_W_IND: Final = 0x40
_LD_H_IND: Final = 0x48
_LD_B_IND: Final = 0x50
_LDX_B_MSH: Final = 0xB1
_JEQ_K: Final = 0x15
_RET_K: Final = 0x06
_ANCILLARY: Final = 0xFFFFF000  # SKF_AD_OFF
_ANCILLARY_PROTOCOL: Final = _ANCILLARY
_ANCILLARY_PACKET_TYPE: Final = _ANCILLARY + 4
_ANCILLARY_INTERFACE: Final = _ANCILLARY + 8
_PACKET_OUTGOING: Final = 4

_LIBRARY_NAMES: Final = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so")
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF
_SLL_BYTES: Final = 16
_TCPDUMP_LINK_TYPES: Final = {1: "EN10MB", 101: "RAW", LINUX_SLL: "LINUX_SLL"}
_DLT_RAW: Final = 12  # the number under which libpcap knows LINKTYPE_RAW (101)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct sock_filter."""

    code: int
    jump_true: int
    jump_false: int
    k: int


@dataclass(frozen=True)
class FilterProgram:
    """A classic BPF program; what it returns is how many octets of a frame to keep."""

    instructions: tuple[Instruction, ...]

    @classmethod
    def accept_all(cls, snaplen: int) -> Self:
        """Keep the first `snaplen` octets of every frame; 0: no frame."""
        return cls((Instruction(_RET_K, 0, 0, snaplen),))

    def run_over(
        self, octets: NDArray[np.uint8], offset: NDArray[np.int64], wire_length: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of m frames in memory pass; frame i is ``octets[offset[i]:offset[i + 1]]``, `wire_length` (m,)."""
        return accepted(self._words, octets, offset, wire_length)

    @cached_property
    def _words(self) -> NDArray[np.int64]:
        words = np.array([(i.code, i.jump_true, i.jump_false, i.k) for i in self.instructions], np.int64).reshape(-1, 4)
        check_program(words)
        return words

    def attach_to(self, sock: socket.socket) -> None:
        """Attach to a socket, in place of what was attached.

        Raises InputError if the kernel refuses: the program is longer than `MAX_INSTRUCTIONS`, or than
        ``net.core.optmem_max`` allows.
        """
        if len(self.instructions) > MAX_INSTRUCTIONS:
            raise InputError(
                f"the capture filter has {len(self.instructions)} instructions, the kernel takes {MAX_INSTRUCTIONS}; "
                "make it simpler"
            )
        packed = b"".join(struct.pack("=HBBI", i.code, i.jump_true, i.jump_false, i.k) for i in self.instructions)
        octets = ctypes.create_string_buffer(packed, len(packed))
        program = struct.pack("HP", len(self.instructions), ctypes.addressof(octets))
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as err:
            raise InputError(
                f"the kernel refuses the capture filter of {len(self.instructions)} instructions: {err.strerror}; "
                "make it simpler, or raise net.core.optmem_max"
            ) from err

    def without_loopback_copies(self, loopback_index: int) -> FilterProgram:
        """The same, behind a test that lets no frame pass on its way out through the loopback interface.

        Every frame there is seen twice, on its way out and then in; the second is kept.
        """
        return FilterProgram(
            (
                Instruction(_LD_W_ABS, 0, 0, _ANCILLARY_PACKET_TYPE),
                Instruction(_JEQ_K, 0, 3, _PACKET_OUTGOING),
                Instruction(_LD_W_ABS, 0, 0, _ANCILLARY_INTERFACE),
                Instruction(_JEQ_K, 0, 1, loopback_index),
                Instruction(_RET_K, 0, 0, 0),
                *self.instructions,
            )
        )

    def for_cooked_socket(self) -> FilterProgram:
        """The same, compiled for Linux cooked v1, with the offsets that a cooked socket's frames have.

        Raises InputError if the program looks at link addresses, which the kernel does not show there.
        """
        return FilterProgram(tuple(map(_for_cooked_socket, self.instructions)))


def compile_filter(expression: str, link_type: int, snaplen: int, *, interface: str | None = None) -> FilterProgram:
    """Compile an expression of pcap-filter(7) for a packet socket of Ethernet, raw IP or Linux cooked frames.

    Args:
        expression: nothing but white space accepts all.
        link_type: `link.ETHERNET`, `link.RAW` or, for a cooked socket, `link.LINUX_SLL`.
        snaplen: how many octets of an accepted frame to keep.
        interface: asked where the expression is about VLAN tags; without it, tags are looked for in the frame only.

    Raises InputError, with the compiler's message, for an expression that cannot be compiled, and where neither libpcap
    nor tcpdump is installed.
    """
    if not expression.strip():
        return FilterProgram.accept_all(snaplen)
    if len(expression) > MAX_CHARACTERS:
        raise InputError(f"capture filter {_short(expression)}: longer than {MAX_CHARACTERS} characters")
    if not "".join(expression.split()).isprintable():
        raise InputError(f"capture filter {_short(expression)}: holds characters that no filter has")
    asked = interface if re.search(r"\bvlan\b", expression) else None
    library = _libpcap()
    if library is not None:
        program = _compile_by_libpcap(library, expression, link_type, snaplen, asked)
    else:
        program = _compile_by_tcpdump(expression, link_type, snaplen, asked)
    return program.for_cooked_socket() if link_type == LINUX_SLL else program


def _for_cooked_socket(instruction: Instruction) -> Instruction:
    code, k = instruction.code, instruction.k
    if code in (_LD_W_ABS, _LD_H_ABS, _LD_B_ABS) and k < _ANCILLARY:
        if code == _LD_H_ABS and k == 14:
            k = _ANCILLARY_PROTOCOL
        elif code == _LD_H_ABS and k == 0:
            k = _ANCILLARY_PACKET_TYPE
        elif k >= _SLL_BYTES:
            k -= _SLL_BYTES
        else:
            raise InputError(
                "capture filter: looks at link addresses, which the kernel does not show of such an interface; "
                "filter by IP addresses"
            )
    elif code in (_LD_W_IND, _LD_H_IND, _LD_B_IND, _LDX_B_MSH) and k >= _SLL_BYTES:
        k -= _SLL_BYTES
    return Instruction(code, instruction.jump_true, instruction.jump_false, k)


class _BpfInsn(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _BpfProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_BpfInsn)))


@cache
def _libpcap() -> ctypes.CDLL | None:
    for name in _LIBRARY_NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        handle, program = ctypes.c_void_p, ctypes.POINTER(_BpfProgram)
        library.pcap_open_dead.restype = handle
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_create.restype = handle
        library.pcap_create.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        for set_option in (library.pcap_set_snaplen, library.pcap_set_buffer_size):
            set_option.argtypes = (handle, ctypes.c_int)
        library.pcap_activate.argtypes = library.pcap_datalink.argtypes = (handle,)
        library.pcap_compile.argtypes = (handle, program, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (handle,)
        library.pcap_freecode.argtypes = (program,)
        library.pcap_freecode.restype = library.pcap_close.restype = None
        library.pcap_close.argtypes = (handle,)
        return library
    return None


def _compile_by_libpcap(
    library: ctypes.CDLL, expression: str, link_type: int, snaplen: int, interface: str | None
) -> FilterProgram:
    known_as = _DLT_RAW if link_type == 101 else link_type
    handle = None if interface is None else _open_interface(library, interface, known_as, snaplen)
    handle = handle or library.pcap_open_dead(known_as, snaplen)
    if not handle:
        raise InputError(f"capture filter {_short(expression)}: libpcap has no memory")
    try:
        compiled = _BpfProgram()
        if library.pcap_compile(handle, ctypes.byref(compiled), expression.encode(), 1, _NETMASK_UNKNOWN) != 0:
            raise _refused(expression, library.pcap_geterr(handle).decode(errors="replace"))
        try:
            found = (compiled.instructions[i] for i in range(compiled.length))
            return FilterProgram(tuple(Instruction(i.code, i.jt, i.jf, i.k) for i in found))
        finally:
            library.pcap_freecode(ctypes.byref(compiled))
    finally:
        library.pcap_close(handle)


def _open_interface(library: ctypes.CDLL, interface: str, known_as: int, snaplen: int) -> int | None:
    """Open an interface as libpcap does for capturing; None where it cannot, or sees other frames than we do."""
    handle: int | None = library.pcap_create(interface.encode(), ctypes.create_string_buffer(256))
    if not handle:
        return None
    library.pcap_set_snaplen(handle, snaplen)
    library.pcap_set_buffer_size(handle, 1 << 16)
    if library.pcap_activate(handle) < 0 or library.pcap_datalink(handle) != known_as:
        library.pcap_close(handle)
        return None
    return handle


def _compile_by_tcpdump(expression: str, link_type: int, snaplen: int, interface: str | None) -> FilterProgram:
    if shutil.which("tcpdump") is None:
        raise InputError(
            f"capture filter {_short(expression)}: neither libpcap nor tcpdump is installed: apt-get install libpcap0.8"
        )
    seen_as = ["-y", _TCPDUMP_LINK_TYPES[link_type], *(["-i", interface] if interface else [])]
    command = ["tcpdump", "-ddd", "-s", str(snaplen), *seen_as, "--", expression]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise _refused(expression, lines[-1].removeprefix("tcpdump: "))
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return FilterProgram(tuple(Instruction(*row) for row in rows[1:]))


def _refused(expression: str, message: str) -> InputError:
    return InputError(f"capture filter {_short(expression)}: {message}; `man pcap-filter` describes the language")


def _short(expression: str) -> str:
    return repr(expression if len(expression) <= 80 else expression[:77] + "...")
