-- A ledger as nsstream wrote it at schema 1: the text of that version's schema, and rows of a daemon of that time.
-- It is never changed: what a later version does to it is what is tested.
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

INSERT INTO setting VALUES ('promotion.hold', 'aaaaaaaaaaaaaaaa'), ('training.paused', 'yes');
INSERT INTO job VALUES
  (1, 'd1', 'done', 60000000000, 120000000000, 200, 0, 0, 0, 130, 140, 150, 'aaaaaaaaaaaaaaaa', NULL),
  (2, 'd2', 'done', 120000000000, 180000000000, 210, 1, 2, 170, 190, 200, 210, 'bbbbbbbbbbbbbbbb', NULL),
  (3, 'd3', 'poisoned', 180000000000, 240000000000, 220, 3, 0, 0, 250, 260, 270, NULL, 'the loss is nan'),
  (4, 'd4', 'skipped', 240000000000, 300000000000, 230, 0, 0, 0, 310, NULL, 320, NULL, 'behind'),
  (5, 'd5', 'running', 300000000000, 360000000000, 240, 0, 1, 0, 370, 380, NULL, NULL, NULL),
  (6, 'd6', 'pending', 360000000000, 480000000000, 60, 0, 0, 0, 490, NULL, NULL, NULL, NULL);
INSERT INTO chunk VALUES
  ('c1', 'd1', 60000000000, 120000000000, 'packets', 1000, 200, 125, 'queued', NULL, 1),
  ('c2', 'd2', 120000000000, 180000000000, 'packets', 1000, 210, 185, 'queued', NULL, 2),
  ('c3', 'd3', 180000000000, 240000000000, 'packets', 1000, 220, 245, 'queued', NULL, 3),
  ('c4', 'd4', 240000000000, 300000000000, 'packets', 1000, 230, 305, 'skipped', 'behind', 4),
  ('c5', 'd5', 300000000000, 360000000000, 'packets', 1000, 240, 365, 'queued', NULL, 5),
  ('c6', 'd6a', 360000000000, 420000000000, 'packets', 100, 30, 425, 'queued', NULL, 6),
  ('c7', 'd6b', 420000000000, 480000000000, 'packets', 100, 30, 485, 'queued', NULL, 6),
  ('c8', 'd8', 480000000000, 540000000000, 'packets', 100, 20, 545, 'held', NULL, NULL),
  ('garbled', '', 0, 0, '', 0, 0, 550, 'skipped', 'damaged', NULL);
INSERT INTO model VALUES
  ('aaaaaaaaaaaaaaaa', 1, NULL, 60000000000, 120000000000, 150, 40.5, 1, '[]', '{"loss": 10.0, "ratio": null, "drift": null}', 1),
  ('bbbbbbbbbbbbbbbb', 2, 'aaaaaaaaaaaaaaaa', 120000000000, 180000000000, 210, 39.5, 0, '["it is worse"]', '{"loss": 12.0, "ratio": 1.2, "drift": 1.0}', 1);
INSERT INTO promotion VALUES (1, 'aaaaaaaaaaaaaaaa', 150, 'gate'), (2, 'aaaaaaaaaaaaaaaa', 155, 'operator');
PRAGMA user_version = 1;
