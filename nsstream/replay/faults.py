"""What pydantic found wrong with fields from outside, as one sentence that begins with the path of the fault."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from nsstream.replay.messages import fit_sentence


def first_fault(err: ValidationError, field_names: Collection[str], whole: str) -> str:
    """The first fault with its path, as ``models[0]: must be ..., got ...``.

    Args:
        err: what a model's validation raised.
        field_names: of the model and of those in it; a union's path has the names of its members, too, which are left
            out.
        whole: what the path is called where the fault is of no field.
    """
    fault = err.errors(include_url=False, include_context=False, include_input=True)[0]
    is_extra_key = fault["type"] == "extra_forbidden"  # the key that is too much is no field, and yet to be named
    parts = [
        p for p in fault["loc"] if isinstance(p, int) or p in field_names or (is_extra_key and p == fault["loc"][-1])
    ]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part:.80}" for part in parts).lstrip(".")
    return fit_sentence(f"{path or whole}: {fault['msg']}, got {show(fault['input'])}")


def field_names(model: type[BaseModel]) -> Iterator[str]:
    """The names of a model's fields, and of those of the models in them."""
    for name, info in model.model_fields.items():
        yield name
        waiting: list[Any] = [info.annotation]
        while waiting:
            of = waiting.pop()
            if isinstance(of, type) and issubclass(of, BaseModel):
                yield from field_names(of)
            waiting += get_args(of)


def show(value: object) -> str:
    """A value of any size as at most 80 characters."""
    if isinstance(value, dict | list):
        return f"a {'map' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:79] + "…"
