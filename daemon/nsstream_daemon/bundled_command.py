"""bundled: the captures that come with nsstream, to try things with and to learn public seeds of."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final

import typer

CAPTURES: Final = {
    "lab": "An office: clients and servers for six and a half minutes; web, DNS, SSH, copies, time, echoes, scans.",
    "home": "A home: 27 devices for eight minutes; DHCP, mDNS, UPnP, MQTT, cameras, phones, makers' servers.",
}


def capture_of(name: str) -> Traversable:
    """The file of a bundled capture."""
    return resources.files("nsstream_daemon") / "data" / f"{name}.pcap.xz"


def bundled(
    name: Annotated[str | None, typer.Argument(help="Of the capture to write; none: list them.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; none: NAME.pcap.xz here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """List the captures that come with nsstream, or write one: traffic of our own labs, and of nobody else."""
    from nsstream.errors import InputError, OutputError
    from nsstream.pipeline.outputs import check_output, publish, staging

    if name is None:
        for known, holds in CAPTURES.items():
            print(f"{known:<6}{holds}")
        return
    if name not in CAPTURES:
        raise InputError(f"there is no bundled capture {name!r}; there are {' and '.join(CAPTURES)}")
    output = Path(f"{name}.pcap.xz") if output is None else output
    check_output(output, replaces=force)
    with staging(output) as folder:
        made = folder / output.name
        try:
            made.write_bytes(capture_of(name).read_bytes())
        except OSError as err:
            raise OutputError(f"cannot write {output}: {err.strerror}") from err
        publish([(made, output)], trash=folder)
    print(f"capture  {output}")
