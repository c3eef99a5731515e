"""Generators of rows: two baselines that learn nothing, and the published CTGAN and TVAE (Xu et al., NeurIPS 2019).

Every generator makes as many rows as it was given, within so many seconds of processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import InputError, TrainError
from peer.rows import Role, Rows

FEW = 200  # distinct values up to which addresses, ports and names are categories; beyond, bits or a number
SAMPLING_SHARE = 0.1  # of the time, set aside for drawing
MOST_EPOCHS = 1_000_000  # the clock ends the training


def resample(rows: Rows, seed: int, cpu_s: float) -> Rows:
    """Real rows, drawn with replacement: all of a row is right, and a copy."""
    chosen = np.random.default_rng(seed).integers(0, len(rows), len(rows))
    return rows.with_columns({name: column[chosen] for name, column in rows.columns.items()})


def independent_columns(rows: Rows, seed: int, cpu_s: float) -> Rows:
    """Each column drawn from its real values on its own: all marginals are right, and nothing else."""
    rng = np.random.default_rng(seed)
    drawn = {name: column[rng.integers(0, len(rows), len(rows))] for name, column in rows.columns.items()}
    return rows.with_columns(drawn)


def ctgan(rows: Rows, seed: int, cpu_s: float) -> Rows:
    """CTGAN of package ctgan with its own settings, trained until the time is up."""
    return _synthesise("CTGAN", rows, seed, cpu_s)


def tvae(rows: Rows, seed: int, cpu_s: float) -> Rows:
    """TVAE of package ctgan with its own settings, trained until the time is up."""
    return _synthesise("TVAE", rows, seed, cpu_s)


GENERATORS: dict[str, Callable[[Rows, int, float], Rows]] = {
    "resample": resample,
    "independent": independent_columns,
    "ctgan": ctgan,
    "tvae": tvae,
}


class _TimeIsUpError(Exception):
    pass


def _synthesise(name: str, rows: Rows, seed: int, cpu_s: float) -> Rows:
    """Train one of package ctgan's synthesizers.

    Its `fit` ends after epochs, not after seconds, so it is given epochs without end and stopped by an exception from
    a hook that torch calls before each network's forward pass; the networks are then as the last whole step left them.
    """
    try:
        import ctgan as package
        import pandas as pd
    except ImportError as err:
        raise InputError(f"package ctgan is not installed ({err}); pip install 'nsstream[bench]'") from err
    import torch

    deadline_s = (1 - SAMPLING_SHARE) * cpu_s  # of this process since its start: imports and reading are not free
    torch.set_num_threads(1)
    synthesizer: Any = getattr(package, name)(epochs=MOST_EPOCHS, enable_gpu=False)
    synthesizer.set_random_state(seed)
    encoder = TableEncoder(rows)
    frame = pd.DataFrame(encoder.encode(rows))
    step_count = 0

    def check(*_: object) -> None:
        nonlocal step_count
        step_count += 1
        if time.process_time() > deadline_s:
            raise _TimeIsUpError

    hook = torch.nn.modules.module.register_module_forward_pre_hook(check)
    try:
        synthesizer.fit(frame, encoder.categories)
    except _TimeIsUpError:
        pass
    finally:
        hook.remove()
    if step_count <= 1:
        raise TrainError(f"{name} took all of its {cpu_s:.0f} s to prepare the rows, and did not learn")
    drawn = synthesizer.sample(len(rows))
    return rows.with_columns(encoder.decode({column: drawn[column].to_numpy() for column in drawn.columns}))


class TableEncoder:
    """Rows as columns that CTGAN takes, the way that suits it best: categories where there are few values.

    An address or port of many values becomes its bits, as NetShare's authors gave them to CTGAN; an address's bits are
    those of its rank by frequency, so that every address which comes out is one of the trace.

    Attributes:
        categories: names of the discrete columns.
    """

    def __init__(self, rows: Rows) -> None:
        self._roles = rows.roles
        self._values = {name: np.unique(column) for name, column in rows.columns.items()}
        self._first_ns = int(rows.columns["time_ns"][0])
        self._bits = {
            name: 16 if role is Role.PORT else max(1, int(len(rows.addresses) - 1).bit_length())
            for name, role in rows.roles.items()
        }
        self._addresses = len(rows.addresses)
        self.categories = [
            column for name in rows.roles for column in self._columns_of(name) if self._is_discrete(name)
        ]

    def encode(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        out: dict[str, NDArray[Any]] = {}
        for name, column in rows.columns.items():
            if self._is_in_bits(name):
                for bit, of in enumerate(self._columns_of(name)):
                    out[of] = column >> bit & 1
            elif self._is_discrete(name):
                out[name] = column
            else:
                out[name] = self._as_number(name, column)
        return out

    def decode(self, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
        """The inverse, of columns that a generator made: numbers are held to what the real rows span."""
        out: dict[str, NDArray[np.int64]] = {}
        for name in self._roles:
            if self._is_in_bits(name):
                bits = [columns[of].astype(np.int64) << bit for bit, of in enumerate(self._columns_of(name))]
                value = np.sum(bits, axis=0)
                out[name] = value % self._addresses if self._roles[name] is Role.ADDRESS else value
            elif self._is_discrete(name):
                out[name] = columns[name].astype(np.int64)
            else:
                number = self._of_number(name, columns[name].astype(np.float64))
                out[name] = np.clip(np.rint(number), self._values[name][0], self._values[name][-1]).astype(np.int64)
        return out

    def _is_discrete(self, name: str) -> bool:
        role = self._roles[name]
        if role in (Role.TIME, Role.AMOUNT, Role.SIZE):
            return False
        return role in (Role.ADDRESS, Role.PORT) or len(self._values[name]) <= FEW

    def _is_in_bits(self, name: str) -> bool:
        return self._roles[name] in (Role.ADDRESS, Role.PORT) and len(self._values[name]) > FEW

    def _columns_of(self, name: str) -> list[str]:
        return [f"{name}_{bit}" for bit in range(self._bits[name])] if self._is_in_bits(name) else [name]

    def _as_number(self, name: str, column: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._roles[name] is Role.TIME:
            return (column - self._first_ns) * 1e-9
        return np.log1p(column) if self._roles[name] is Role.AMOUNT else column.astype(np.float64)

    def _of_number(self, name: str, number: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._roles[name] is Role.TIME:
            return self._first_ns + number * 1e9
        return np.expm1(np.minimum(number, 60)) if self._roles[name] is Role.AMOUNT else number
