"""The drawing worker of flow tables: one process, one job. ``python -m nsstream.draw.flow_worker``.

stdin: one JSON object (`FlowDrawJob`). stdout: a JSON object a line: any number of ``progress`` (checkpoint, records),
then one ``done`` (records, lines) or ``error`` (message). Exit status 0 after ``done``, 1 after ``error``.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_table_file import FlowTableWriter
from nsstream.draw.flow_drawer import Condition, FlowDrawer
from nsstream.errors import NsstreamError, OutputError


class FlowCondition(BaseModel):
    """Which flows to draw; as `Condition`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None = None
    protocol: Annotated[int, Field(ge=0, le=255)] | None = None
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    scale: Annotated[float, Field(gt=0, le=1000)] = 1.0


class FlowDrawJob(BaseModel):
    """Draw the tables of some checkpoints, in order, into one file that does not exist yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[Path, ...], Field(min_length=1)]
    output: Path  # its last suffix says how it is compressed: .gz, .xz, .zst
    mapping: TableMapping
    header: tuple[str, ...]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    condition: FlowCondition | None = None


def run(job: FlowDrawJob) -> dict[str, object]:
    """Draw and write.

    Raises StateError where a model cannot be loaded, InputError where it has nothing of the condition's kind,
    OutputError where the file cannot be written.
    """
    drawer = FlowDrawer(job.seed, job.threads)
    condition = None if job.condition is None else Condition(**job.condition.model_dump())
    records = lines = 0
    try:
        with open_compressed(job.output) as file:
            writer = FlowTableWriter(file, job.mapping, job.header)
            for number, model in enumerate(job.models, 1):
                table = drawer.draw(model, condition)
                records, lines = records + len(table), lines + writer.write(table)
                _say(event="progress", checkpoint=number, records=records)
    except OSError as err:
        raise OutputError(f"cannot write {job.output}: {err.strerror or err}") from err
    return {"records": records, "lines": lines}


def open_compressed(path: Path) -> BinaryIO:
    """A new file to write, compressed as its last suffix says; raises OSError."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "xb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "xb"))
    return zstandard.open(path, "xb") if path.suffix == ".zst" else path.open("xb")


def main() -> int:
    """Do the job on stdin."""
    try:
        job = FlowDrawJob.model_validate_json(sys.stdin.read())
        _say(event="done", **run(job))
    except ValidationError as err:
        first = err.errors()[0]
        _say(event="error", message=f"not a drawing job: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        return 1
    except NsstreamError as err:
        _say(event="error", message=str(err))
        return 1
    except Exception as err:
        traceback.print_exc()
        _say(event="error", message=f"the worker failed: {type(err).__name__}: {err}")
        return 1
    return 0


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the table is on the disk, and to take down all that is loaded takes seconds
