"""UnitUses: in which private jobs a unit's traffic was, in the ledger, so that it is in few of a horizon.

Rules: (1) a unit is let into a job if it is in fewer than `most_chunks` others whose traffic is within a horizon of
that job's, before or behind it: so no window of a horizon has it in more; (2) it is let in or not by its own uses
alone: who else is there, and what they did, changes nothing; (3) what is let in stands on the disk before a worker
begins, and the same job, tried again, is given the same; (4) a use that is behind the newest traffic by two horizons is
dropped; a job that a dropped use may still count for is not done (`known_from_ns`).

Units are keyed hashes, 64 bits; two that share one are counted as one. The key is the ledger's own, since uses under
another one would be forgotten: it goes where they go, into backups too. Hashes and key are as secret as the state.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.clock import Clock
from nsstream.pipeline.ledger import Ledger, set_setting
from nsstream.pipeline.privacy_budget import Terms
from nsstream.pipeline.training_queue import Job

KEY: Final = "privacy.unit_key"  # settings: 16 octets in hexadecimal,
DROPPED: Final = "privacy.units_dropped_ns"  # and the latest end of a use that was dropped
KEPT_HORIZONS: Final = 2
_GROUP: Final = 500  # rows that are asked for at once


class UnitUses:
    """The uses of one ledger, under one configuration's terms."""

    def __init__(self, ledger: Ledger, clock: Clock, terms: Terms) -> None:
        self._ledger, self._clock, self._terms = ledger, clock, terms

    @property
    def is_bounded(self) -> bool:
        """Whether units are let into so many jobs; else into all, and nothing is written down."""
        return self._terms.most_chunks is not None

    def key(self) -> tuple[np.uint64, np.uint64]:
        """The key of the hashes; made where there is none. Raises OutputError where the ledger refuses."""
        with self._ledger.transaction() as db:
            row = db.execute("SELECT value FROM setting WHERE name = ?", (KEY,)).fetchone()
            octets = secrets.token_bytes(16) if row is None else bytes.fromhex(row["value"])
            if row is None:
                set_setting(db, KEY, octets.hex())
        k0, k1 = np.frombuffer(octets, "<u8")
        return np.uint64(k0), np.uint64(k1)

    def known_from_ns(self) -> int | None:
        """The earliest traffic that a job may begin with: what was used before is not known; None: all is known."""
        dropped = self._ledger.setting(DROPPED)
        return None if dropped is None or not self.is_bounded else int(dropped) + self._terms.horizon_ns

    def admit(self, job: Job, units: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which units (n,) of a job's traffic may be learned; all where nothing bounds them.

        Raises OutputError where the ledger cannot be written.
        """
        most, horizon_ns = self._terms.most_chunks, self._terms.horizon_ns
        if most is None:
            return np.ones(len(units), np.bool_)
        distinct, which = np.unique(units.astype(np.uint64).view(np.int64), return_inverse=True)
        with self._ledger.transaction() as db:
            uses = dict.fromkeys(distinct.tolist(), 0)
            mine = set()
            for at in range(0, len(distinct), _GROUP):
                group = distinct[at : at + _GROUP].tolist()
                rows = db.execute(
                    f"SELECT unit, digest FROM unit_use WHERE unit IN ({', '.join('?' * len(group))})"
                    " AND start_ns < ? AND end_ns > ?",
                    (*group, job.end_ns + horizon_ns, job.start_ns - horizon_ns),
                )
                for unit, digest in rows:
                    uses[unit] += 1
                    if digest == job.digest:
                        mine.add(unit)
            known_from_ns = self.known_from_ns()  # another job may have let uses be dropped since this one reserved
            is_known = known_from_ns is None or job.start_ns >= known_from_ns
            admitted = [unit for unit, count in uses.items() if unit in mine or (is_known and count < most)]
            db.executemany(
                "INSERT OR IGNORE INTO unit_use (unit, digest, start_ns, end_ns) VALUES (?, ?, ?, ?)",
                [(unit, job.digest, job.start_ns, job.end_ns) for unit in admitted],
            )
            self._drop(db)
        is_admitted: NDArray[np.bool_] = np.isin(distinct, np.array(admitted, np.int64))[which.reshape(-1)]
        return is_admitted

    def _drop(self, db: sqlite3.Connection) -> None:
        """Drop uses that are far behind, by the traffic's time; what claims to be of the future moves nothing."""
        newest_ns = db.execute("SELECT MAX(end_ns) FROM unit_use").fetchone()[0]
        if newest_ns is None:
            return
        until_ns = min(newest_ns, self._clock.wall_ns()) - KEPT_HORIZONS * self._terms.horizon_ns
        if db.execute("DELETE FROM unit_use WHERE end_ns <= ?", (until_ns,)).rowcount:
            set_setting(db, DROPPED, str(until_ns))
