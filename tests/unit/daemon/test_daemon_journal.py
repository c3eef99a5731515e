"""Entries of the journal: what stands in their fields, and on what they are sent."""

import logging
import os
import socket
import struct
from pathlib import Path

import pytest
from nsstream_daemon.journal import MOST_OCTETS, JournalHandler, datagram, is_journal, log_handler


def record(message: str, *values: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("nsstream.x", level, "/a/x.py", 7, message, values, None, "run")


@pytest.fixture
def journal(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        end.settimeout(5)
        yield end


def read(octets: bytes) -> dict[str, str]:
    """A datagram of the native protocol, read by its specification."""
    fields, at = {}, 0
    while at < len(octets):
        end = octets.index(b"\n", at)
        name, is_short, value = octets[at:end].partition(b"=")
        if is_short:
            at = end + 1
        else:
            (length,) = struct.unpack_from("<Q", octets, end + 1)
            value = octets[end + 9 : end + 9 + length]
            assert octets[end + 9 + length : end + 10 + length] == b"\n"
            at = end + 10 + length
        fields[name.decode()] = value.decode()
    return fields


def sent(journal: socket.socket, *records: logging.LogRecord) -> list[dict[str, str]]:
    handler = JournalHandler(journal.getsockname())
    for each in records:
        handler.handle(each)
    handler.close()
    return [read(journal.recv(1 << 20)) for _ in records]


def test_an_event_and_what_it_is_about_are_fields(journal: socket.socket):
    (fields,) = sent(
        journal, record("job_%s job=%d chunk=%s share=%.1f%% reason=%s", "failed", 3, "c-1", 2.0, "a = b\nc=d",
                        level=logging.WARNING)
    )  # fmt: skip
    assert fields == {
        "MESSAGE": "job_failed job=3 chunk=c-1 share=2.0% reason=a = b\nc=d",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "nsstream",
        "LOGGER": "nsstream.x",
        "THREAD_NAME": "MainThread",
        "CODE_FILE": "/a/x.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "run",
        "NSSTREAM_EVENT": "job_failed",
        "NSSTREAM_JOB": "3",
        "NSSTREAM_CHUNK": "c-1",
        "NSSTREAM_SHARE": "2.0%",
        "NSSTREAM_REASON": "a = b\nc=d",
    }


def test_an_id_is_named_after_what_the_event_is_about(journal: socket.socket):
    chunk, model, run = sent(
        journal,
        record("chunk_stored id=%s rows=%d", "c", 1),
        record("model_removed id=%s", "m"),
        record("run ended outcome=%s run=%d", "done", 4),
    )
    assert (chunk["NSSTREAM_CHUNK"], chunk["NSSTREAM_ROWS"], model["NSSTREAM_MODEL"]) == ("c", "1", "m")
    assert (run["NSSTREAM_EVENT"], run["NSSTREAM_RUN"]) == ("run_ended", "4")


def test_a_message_of_another_kind_is_told_as_it_is(journal: socket.socket):
    plain, wrong = sent(journal, record("it is 100% so"), record("a=%(b)s c", {"b": 1}))
    assert (plain["MESSAGE"], plain["NSSTREAM_EVENT"]) == ("it is 100% so", "it_is_100%_so")
    assert not any(name.startswith("NSSTREAM_") for name in wrong)


def test_a_defect_has_its_name_and_its_traceback(journal: socket.socket):
    try:
        raise ZeroDivisionError("so")
    except ZeroDivisionError as err:
        told = logging.LogRecord("x", logging.ERROR, "", 0, "thread_died name=%s", ("a",), (type(err), err, None))
    (fields,) = sent(journal, told)
    assert (fields["NSSTREAM_NAME"], fields["NSSTREAM_EXCEPTION"]) == ("a", "ZeroDivisionError")
    assert fields["MESSAGE"].splitlines()[-1] == "ZeroDivisionError: so"


def test_a_value_is_bounded():
    assert len(datagram({"MESSAGE": "x" * (2 * MOST_OCTETS)})) == len("MESSAGE=\n") + MOST_OCTETS


def test_what_the_journal_does_not_take_is_a_line_on_standard_error(tmp_path: Path, capfd):
    handler = JournalHandler(str(tmp_path / "nobody"))
    handler.handle(record("chunk_stored id=%s", "c"))
    handler.close()
    assert capfd.readouterr().err == "<6>chunk_stored id=c\n"


def test_the_journal_is_what_the_service_manager_says_it_is(tmp_path: Path):
    with (tmp_path / "file").open("wb") as file:
        found = os.fstat(file.fileno())
        names = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(names, file.fileno())
        assert not is_journal({}, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": "1:2"}, file.fileno())
    assert not is_journal(names, 1 << 20)
    assert type(log_handler({})) is logging.StreamHandler
