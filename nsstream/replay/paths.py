"""Paths as specifications and messages carry them: absolute, and of a length that the system takes."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

MAX_STRING_BYTES: Final = 4096  # PATH_MAX


def _absolute_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path without NUL")
    if len(path.encode()) > MAX_STRING_BYTES:
        raise ValueError(f"must be at most {MAX_STRING_BYTES} octets long")
    return path


AbsolutePath = Annotated[str, Field(min_length=1, max_length=MAX_STRING_BYTES), AfterValidator(_absolute_path)]
