"""CURVE keys: who a replay server is, and which clients it lets in. Files in ZPL, as zmq.auth and czmq write them.

A server has a directory: its own `server.key_secret` (0600) and `server.key`, and `clients/` with a public ``NAME.key``
for each client that is let in. A client has its `NAME.key_secret` and the server's `server.key`. Whoever has a secret
key is whom it stands for: keep it where it was made.

Promises: a secret key's file is 0600 from its first moment on and never overwritten; one that others may read is not
read. A key file of any content gives keys or InputError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nsstream.clock import Clock
from nsstream.errors import InputError, OutputError
from nsstream.secret_files import SecretFile, read_bounded, write_new

MAX_KEY_FILE_BYTES: Final = 4096
MAX_CLIENTS: Final = 4096
SERVER: Final = "server"
CLIENTS: Final = "clients"
ALLOWED_AGAIN_S: Final = 1.0  # how soon a change of the directory is seen

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_LINE: Final = re.compile(r"^\s+(public-key|secret-key)\s*=\s*\"([^\"\s]{40})\"\s*$", re.MULTILINE)
_Z85: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret, in Z85: 40 characters each."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs: its own pair, and the key of the server that it trusts."""

    own: KeyPair
    server: bytes


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What a server needs: its own pair, and where the keys of its clients are."""

    own: KeyPair
    clients: Path


def make_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a new pair as NAME.key and NAME.key_secret in a directory, which is made (0700) where it is not there.

    Gives the paths of both. Raises InputError for a name that is none, OutputError where a file exists or cannot be
    written.
    """
    import zmq

    public, secret = zmq.curve_keypair()
    _check_name(name)
    public_path, secret_path = directory / f"{name}.key", directory / f"{name}.key_secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new(secret_path, 0o600, _document("a secret key: give it to nobody", public, secret))
        try:
            write_new(public_path, 0o644, _document("a public key: for the other side", public))
        except BaseException:
            secret_path.unlink()
            raise
    except OSError as err:
        raise OutputError(f"{err.filename or directory}: {_reason(err)}") from err
    return public_path, secret_path


def make_server_keys(directory: Path) -> tuple[Path, Path]:
    """Make a server's directory: its pair, and an empty `clients/`. Raises as `make_keys` does."""
    paths = make_keys(directory, SERVER)
    try:
        (directory / CLIENTS).mkdir(mode=0o700, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{directory / CLIENTS}: {_reason(err)}") from err
    return paths


def allow_client(directory: Path, public_key_file: Path) -> Path:
    """Let a client in: copy its public key into the server's directory. Raises InputError, OutputError."""
    name = public_key_file.name.removesuffix(".key")
    _check_name(name)
    public = load_public_key(public_key_file)
    path = directory / CLIENTS / f"{name}.key"
    try:
        write_new(path, 0o644, _document("the public key of a client that is let in", public))
    except OSError as err:
        raise OutputError(f"{path}: {_reason(err)}") from err
    return path


def load_public_key(path: Path) -> bytes:
    """The public key in a file, in Z85; raises InputError."""
    return _read(path)["public-key"]


def load_key_pair(secret_file: Path | SecretFile) -> KeyPair:
    """The pair in a secret key's file; raises InputError, also where others may read it."""
    import zmq

    file = secret_file if isinstance(secret_file, SecretFile) else SecretFile(secret_file)
    path = file.path
    keys = _parsed(path, file.read(MAX_KEY_FILE_BYTES))
    secret = keys.get("secret-key")
    if secret is None:
        raise InputError(f"{path}: has no secret key; give the file that ends in .key_secret")
    if zmq.curve_public(secret) != keys["public-key"]:
        raise InputError(f"{path}: its public key is not that of its secret key")
    return KeyPair(keys["public-key"], secret)


def load_server_keys(directory: Path, secret_file: SecretFile | None = None) -> ServerKeys:
    """What is in a server's directory, the secret key elsewhere where a file is given; raises InputError."""
    clients = directory / CLIENTS
    if not clients.is_dir():
        raise InputError(f"{clients}: there is no such directory; `nsstream keys server {directory}` makes it")
    return ServerKeys(load_key_pair(secret_file or directory / f"{SERVER}.key_secret"), clients)


def load_client_keys(secret_key_file: Path, server_key_file: Path) -> ClientKeys:
    """A client's pair and the server's public key; raises InputError."""
    return ClientKeys(load_key_pair(secret_key_file), load_public_key(server_key_file))


class AllowedClients:
    """The keys in a server's `clients/`, looked at again where a second has passed.

    `unreadable_count`: files that were no key when it was looked last.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._names: Mapping[bytes, str] = {}
        self._read_ns: int | None = None
        self.unreadable_count = 0

    def name_of(self, public_key: bytes) -> str | None:
        """The name of the client with this key (Z85); None: it is not let in."""
        now_ns = self._clock.monotonic_ns()
        if self._read_ns is None or now_ns - self._read_ns >= ALLOWED_AGAIN_S * 1e9:
            self._names, self._read_ns = self._load(), now_ns
        return self._names.get(public_key)

    def _load(self) -> dict[bytes, str]:
        names: dict[bytes, str] = {}
        self.unreadable_count = 0
        try:
            paths = sorted(path for path in self._directory.iterdir() if path.suffix == ".key")[:MAX_CLIENTS]
        except OSError:  # then nobody is let in
            self.unreadable_count = 1
            return names
        for path in paths:
            try:
                names[load_public_key(path)] = path.stem
            except InputError:
                self.unreadable_count += 1
        return names


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"the name of a key is 1 to 64 letters, digits and . _ @ -, got {name!r:.80}")


def _document(what: str, public: bytes, secret: bytes | None = None) -> bytes:
    lines = [f"# nsstream: {what}", "metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return ("\n".join(lines) + "\n").encode()


def _read(path: Path) -> dict[str, bytes]:
    return _parsed(path, read_bounded(path, MAX_KEY_FILE_BYTES, is_private=False))


def _parsed(path: Path, octets: bytes) -> dict[str, bytes]:
    found = {name: key.encode() for name, key in _LINE.findall(octets.decode("ascii", "replace"))}
    if "public-key" not in found or not all(map(_Z85.fullmatch, found.values())):
        raise InputError(f"{path}: is no key file (`nsstream keys` makes them)")
    return found


def _reason(err: OSError) -> str:
    return "exists already, and is not overwritten" if isinstance(err, FileExistsError) else str(err.strerror).lower()
