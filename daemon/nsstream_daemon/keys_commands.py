"""keys: CURVE keys for replay servers on TCP, the list of the clients that one lets in, and keys of address maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys_app = typer.Typer(
    help="Keys for replay servers on TCP, for their clients, and of address maps.", no_args_is_help=True
)

ServerDirectory = Annotated[Path, typer.Argument(help="The server's directory of keys.")]


@keys_app.command("server")
def server(directory: ServerDirectory) -> None:
    """Make a server's keys, and a directory for those of its clients."""
    from nsstream.replay.keys import make_server_keys

    public, secret = make_server_keys(directory)
    print(f"{secret}  (stays here)\n{public}  (give it to clients)\n{directory / 'clients'}/  (who is let in)")


@keys_app.command("client")
def client(
    directory: Annotated[Path, typer.Argument(help="Where the client keeps its keys.")],
    name: Annotated[str, typer.Argument(help="Of the client, in the server's list.")],
) -> None:
    """Make a client's keys."""
    from nsstream.replay.keys import make_keys

    public, secret = make_keys(directory, name)
    print(f"{secret}  (stays here)\n{public}  (for `nsstream keys allow` at the server)")


@keys_app.command("allow")
def allow(
    directory: ServerDirectory,
    key: Annotated[Path, typer.Argument(help="The client's NAME.key.")],
) -> None:
    """Let a client in; a running server sees it within a second."""
    from nsstream.replay.keys import allow_client

    print(allow_client(directory, key))


@keys_app.command("list")
def list_clients(directory: ServerDirectory) -> None:
    """List the clients that are let in. Removing a file from the directory shuts its client out."""
    from nsstream.errors import InputError
    from nsstream.replay.keys import CLIENTS, load_public_key

    clients = directory / CLIENTS
    if not clients.is_dir():
        raise InputError(f"{clients}: there is no such directory")
    for path in sorted(clients.glob("*.key")):
        print(f"{path.stem}  {load_public_key(path).decode()}")


@keys_app.command("address")
def address(file: Annotated[Path, typer.Argument(help="The file that is made, for training.address_key.")]) -> None:
    """Make a key of an address map: who has it can tell real hosts from those of the twin."""
    import secrets

    from nsstream.pipeline.address_keys import make_key

    make_key(file, secrets.token_bytes(32))
    print(f"{file}  (stays here)")
