import socket
import subprocess

import pytest

from nsstream.capture.bpf import (
    FilterProgram,
    Instruction,
    _compile_by_libpcap,
    _compile_by_tcpdump,
    _libpcap,
    compile_filter,
)
from nsstream.errors import InputError
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW

EXPRESSIONS = ["tcp port 80", "udp and not port 53", "host 192.0.2.1 or net 2001:db8::/32", "icmp6", "vlan 5 and ip"]


@pytest.mark.parametrize("expression", ["", "  ", "\n"])
def test_no_expression_accepts_all(expression: str) -> None:
    assert compile_filter(expression, ETHERNET, 96) == FilterProgram((Instruction(0x06, 0, 0, 96),))


@pytest.mark.parametrize("link_type", [ETHERNET, RAW])
@pytest.mark.parametrize("expression", EXPRESSIONS[:4])
def test_program_is_the_one_that_tcpdump_shows(expression: str, link_type: int) -> None:
    name = {ETHERNET: "EN10MB", RAW: "RAW"}[link_type]
    command = ["tcpdump", "-y", name, "-s", "96", "-ddd", expression]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    program = compile_filter(expression, link_type, 96)
    told = [f"{i.code} {i.jump_true} {i.jump_false} {i.k}" for i in program.instructions]
    assert [str(len(told)), *told] == shown.split("\n")[:-1]


@pytest.mark.parametrize(
    ("expression", "link_type"),
    [(one, ETHERNET) for one in EXPRESSIONS] + [(one, LINUX_SLL) for one in EXPRESSIONS[:4]],
)
def test_both_compilers_agree(expression: str, link_type: int) -> None:
    library = _libpcap()
    assert library is not None
    by_library = _compile_by_libpcap(library, expression, link_type, 96, None)
    assert by_library == _compile_by_tcpdump(expression, link_type, 96, None)
    assert len(by_library.instructions) > 2


def test_bad_expression_is_refused_with_the_compilers_message() -> None:
    with pytest.raises(InputError, match=r"'tcp prot 80'.*syntax error") as caught:
        compile_filter("tcp prot 80", ETHERNET, 96)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'tcp prot 80'.*syntax error"):
        _compile_by_tcpdump("tcp prot 80", ETHERNET, 96, None)


def test_expression_is_never_an_option() -> None:
    with pytest.raises(InputError):
        _compile_by_tcpdump("-w/tmp/somewhere", ETHERNET, 96, None)


@pytest.mark.parametrize("expression", ["tcp\0 port 80", "tcp \x1b[31m", "\ud800", "\u202etcp"])
def test_expression_with_odd_characters_is_refused(expression: str) -> None:
    with pytest.raises(InputError, match="characters"):
        compile_filter(expression, ETHERNET, 96)


def test_long_expression_is_named_in_short() -> None:
    with pytest.raises(InputError) as caught:
        compile_filter("tcp and " * 500, ETHERNET, 96)
    assert len(str(caught.value)) < 250


def test_expression_beyond_bounds_is_refused_at_once() -> None:
    many = " or ".join(f"host 10.{k // 250}.{k % 250}.1" for k in range(4000))
    with pytest.raises(InputError, match="16384"):
        compile_filter(many, ETHERNET, 96)


def test_program_that_no_kernel_takes_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(InputError, match="4096"):
        FilterProgram((Instruction(0x06, 0, 0, 1),) * 70_000).attach_to(sock)


def test_cooked_program_reads_the_protocol_from_the_kernel_and_moves_the_rest() -> None:
    cooked = compile_filter("ip proto 17", LINUX_SLL, 96)
    assert cooked.instructions[:4] == (
        Instruction(0x28, 0, 0, 0xFFFFF000),  # protocol
        Instruction(0x15, 0, 3, 0x0800),
        Instruction(0x30, 0, 0, 9),
        Instruction(0x15, 0, 1, 17),
    )


def test_cooked_program_cannot_look_at_link_addresses() -> None:
    with pytest.raises(InputError, match="link addresses"):
        compile_filter("link[6] = 2", LINUX_SLL, 96)


def test_program_is_attached_and_replaced() -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5.0)
        FilterProgram.accept_all(0).attach_to(receiver)
        sender.sendto(b"first", receiver.getsockname())
        FilterProgram.accept_all(1 << 16).attach_to(receiver)
        sender.sendto(b"second", receiver.getsockname())
        assert receiver.recv(100) == b"second"


def test_program_that_this_kernel_refuses_says_so() -> None:
    broken = FilterProgram((Instruction(0x15, 9, 9, 0),))  # jumps beyond its end
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(InputError, match="refuses"):
        broken.attach_to(sock)
