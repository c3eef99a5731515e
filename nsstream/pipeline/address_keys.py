"""Keys of the address map: 16 to 64 octets in hexadecimal, in a file beside a folder of models, or one of one's own.

A key of one's own, such as a credential that the service manager hands over, is nowhere written down. A folder has one
key: models that follow one another must tell the same host by the same address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nsstream.chunk import whole_file
from nsstream.errors import InputError, OutputError, StateError
from nsstream.pipeline.outputs import KEY_FILE
from nsstream.secret_files import SecretFile, write_new

FEWEST_OCTETS: Final = 16
MOST_OCTETS: Final = 64


def key_beside(models: Path, new_key: bytes) -> bytes:
    """The key of the address map beside a folder of models; `new_key` is written there if there is none."""
    path = models.absolute().parent / KEY_FILE
    if not path.exists():
        with whole_file(path, mode=0o600) as file:
            file.write(new_key.hex().encode() + b"\n")
    return key_in(path)


def key_in(path: Path) -> bytes:
    """The key in such a file; raises StateError where there is none."""
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as err:
        raise StateError(f"{path} is not an address key: {err}") from err


def own_key(file: SecretFile, models: Path) -> bytes:
    """The key in a file of one's own, for a folder of models.

    Raises InputError where it holds no key, StateError where another one is beside the folder.
    """
    text = file.read(4 * MOST_OCTETS)
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError as err:
        raise InputError(f"{file.path}: is no address key in hexadecimal (`nsstream keys address` makes one)") from err
    if not FEWEST_OCTETS <= len(key) <= MOST_OCTETS:
        raise InputError(f"{file.path}: an address key has {FEWEST_OCTETS} to {MOST_OCTETS} octets, not {len(key)}")
    beside = models.absolute().parent / KEY_FILE
    if beside.exists() and key_beside(models, key) != key:
        raise StateError(
            f"{beside} is another key than {file.path}: hosts would change their addresses; remove one of the two"
        )
    return key


def make_key(path: Path, new_key: bytes) -> None:
    """Write a key into a file that was not there (0600); raises OutputError."""
    try:
        write_new(path, 0o600, new_key.hex().encode() + b"\n")
    except FileExistsError as err:
        raise OutputError(f"{path}: exists already, and is not overwritten") from err
    except OSError as err:
        raise OutputError(f"{path}: {str(err.strerror).lower()}") from err
