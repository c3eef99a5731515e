"""The ledger's schema, as the steps that lead to it: step i takes a ledger from version i to i + 1.

A step that was released is never changed; what is to be different comes as another step. Times end in ``_ns`` and
count from the Unix epoch.
"""

from __future__ import annotations

from typing import Final

_FIRST: Final = """
CREATE TABLE setting (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE job (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'running', 'done', 'failed', 'poisoned', 'skipped')),
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  conversations INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  interruptions INTEGER NOT NULL DEFAULT 0,
  not_before_ns INTEGER NOT NULL DEFAULT 0,
  created_ns INTEGER NOT NULL,
  claimed_ns INTEGER,
  ended_ns INTEGER,
  candidate TEXT,
  reason TEXT
);
CREATE INDEX job_by_state ON job (state, start_ns);

CREATE TABLE chunk (
  id TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  kind TEXT NOT NULL,
  row_count INTEGER NOT NULL,
  conversations INTEGER NOT NULL,
  seen_ns INTEGER NOT NULL,
  fate TEXT NOT NULL CHECK (fate IN ('held', 'queued', 'skipped')),
  reason TEXT,
  job INTEGER REFERENCES job (id)
) WITHOUT ROWID;
CREATE INDEX chunk_by_job ON chunk (job);
CREATE INDEX chunk_by_fate ON chunk (fate);

CREATE TABLE model (
  id TEXT PRIMARY KEY,
  job INTEGER NOT NULL UNIQUE REFERENCES job (id),
  parent TEXT,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  trained_ns INTEGER NOT NULL,
  training_s REAL NOT NULL,
  passed INTEGER NOT NULL,
  complaints TEXT NOT NULL,
  figures TEXT NOT NULL,
  is_stored INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;

CREATE TABLE promotion (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  model TEXT NOT NULL REFERENCES model (id),
  time_ns INTEGER NOT NULL,
  reason TEXT NOT NULL CHECK (reason IN ('gate', 'operator'))
);
"""

_TOTALS: Final = """
CREATE TABLE total (
  what TEXT NOT NULL CHECK (what IN ('job', 'chunk', 'model', 'promotion')),
  fate TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (what, fate)
) WITHOUT ROWID;

CREATE TABLE forgetting (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  time_ns INTEGER NOT NULL,
  asked TEXT NOT NULL,
  chunks INTEGER NOT NULL,
  row_count INTEGER NOT NULL,
  models INTEGER NOT NULL
);
"""  # of rows that were dropped; and what operators had dropped

_PRIVACY: Final = """
CREATE TABLE spending (
  id TEXT PRIMARY KEY,
  job INTEGER NOT NULL,
  digest TEXT NOT NULL,
  chunk TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  unit TEXT NOT NULL CHECK (unit IN ('host', 'flow')),
  reserved TEXT NOT NULL,
  reserved_ns INTEGER NOT NULL,
  is_begun INTEGER NOT NULL DEFAULT 0,
  spent TEXT,
  model TEXT,
  settled_ns INTEGER
) WITHOUT ROWID;
CREATE INDEX spending_by_time ON spending (end_ns);
CREATE INDEX spending_by_digest ON spending (digest);

CREATE TABLE spending_gap (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  reason TEXT NOT NULL,
  time_ns INTEGER NOT NULL
);

CREATE TABLE unit_use (
  unit INTEGER NOT NULL,
  digest TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  PRIMARY KEY (unit, digest)
) WITHOUT ROWID;

CREATE TABLE refusal (
  reason TEXT PRIMARY KEY,
  count INTEGER NOT NULL,
  last_ns INTEGER NOT NULL
) WITHOUT ROWID;
"""  # what private jobs may have cost: nothing refers to jobs and chunks, which are forgotten, and this never is

_INDEXES: Final = """
CREATE INDEX model_by_time ON model (trained_ns DESC);
CREATE INDEX model_by_verdict ON model (passed, trained_ns);
CREATE INDEX model_stored ON model (trained_ns DESC) WHERE is_stored;
CREATE INDEX model_seed ON model (trained_ns) WHERE parent IS NULL;
CREATE INDEX chunk_by_start ON chunk (start_ns DESC);
CREATE INDEX chunk_by_end ON chunk (end_ns);
CREATE INDEX chunk_by_reason ON chunk (fate, reason);
CREATE INDEX promotion_by_model ON promotion (model);
"""  # three months of minutes are 130,000 rows: what each job and each status asks for reads none of the others

_BOUNDS: Final = """
ALTER TABLE spending ADD COLUMN most_chunks INTEGER;
ALTER TABLE spending ADD COLUMN within_ns INTEGER;
CREATE INDEX unit_use_by_time ON unit_use (end_ns);
"""  # how units were let into a private job: into so many of any stretch of time that is so long; NULL: into all

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _TOTALS, _PRIVACY, _INDEXES, _BOUNDS)
