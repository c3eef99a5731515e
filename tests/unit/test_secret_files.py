"""Where a secret is found, and who may be able to read it for it to be used."""

import os
import stat
from pathlib import Path

import pytest

from nsstream.errors import InputError
from nsstream.secret_files import SecretFile, find_secret, write_new


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    write_new(tmp_path / "a.key", 0o600, b"so")
    return tmp_path / "a.key"


def test_a_path_is_a_file_that_its_owner_alone_reads(secret: Path):
    found = find_secret(str(secret), {})
    assert (found, found.read(2)) == (SecretFile(secret), b"so")
    secret.chmod(0o640)
    with pytest.raises(InputError, match=r"a\.key: others may read"):
        found.read(2)


def test_a_credential_is_what_the_service_manager_handed_over(secret: Path):
    secret.chmod(0o440)  # as systemd lets a service's user in
    found = find_secret("credential:a.key", {"CREDENTIALS_DIRECTORY": str(secret.parent)})
    assert (found, found.read(2)) == (SecretFile(secret, is_credential=True), b"so")


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/etc/passwd", "a b", "ä"])
def test_the_name_of_a_credential_is_no_path(name: str, tmp_path: Path):
    with pytest.raises(InputError, match="the name of a credential is of"):
        find_secret(f"credential:{name}", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_credential_that_is_not_there_is_told_by_its_name(tmp_path: Path):
    with pytest.raises(InputError, match="there are no credentials; a service manager"):
        find_secret("credential:a.key", {})
    with pytest.raises(InputError, match=r"credential:a\.key: was not handed over"):
        find_secret("credential:a.key", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_what_is_too_large_or_no_file_is_not_read(secret: Path, tmp_path: Path):
    with pytest.raises(InputError, match="has more than 1 octets"):
        SecretFile(secret).read(1)
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert SecretFile(tmp_path / "fifo").read(9) == b""
    with pytest.raises(InputError, match="no such file"):
        SecretFile(tmp_path / "none").read(9)


def test_what_is_there_is_not_overwritten_and_the_umask_counts_for_nothing(tmp_path: Path):
    before = os.umask(0)
    try:
        write_new(tmp_path / "x", 0o600, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "x", 0o600, b"2")
