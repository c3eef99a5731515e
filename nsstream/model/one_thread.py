"""Matrix products of compiled loops on one thread: the same seed then gives the same octets on any number of cores."""

from __future__ import annotations

from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # numba's products are in its BLAS, which must be loaded to be found

    return ThreadpoolController()


def one_blas_thread() -> Any:
    """A context in which BLAS uses one thread."""
    return _controller().limit(limits=1, user_api="blas")
