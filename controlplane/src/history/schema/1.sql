-- Whose intervals: its number is in the keys of the others.
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    family TEXT NOT NULL,
    UNIQUE (name, family)
) STRICT;

-- What was appended and is not yet in a chunk: tier, start and block of targets are in the key.
CREATE TABLE head (
    key INTEGER PRIMARY KEY,
    records BLOB NOT NULL
) STRICT;

-- One target's hour in one tier: target, tier and hour are in the key.
CREATE TABLE chunk (
    key INTEGER PRIMARY KEY,
    intervals BLOB NOT NULL
) STRICT;

-- How many chunks an hour of a tier has, and what they hold: tier and hour are in the key.
CREATE TABLE hour (
    key INTEGER PRIMARY KEY,
    chunks INTEGER NOT NULL,
    intervals INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at_unix_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    target TEXT,
    alertname TEXT,
    severity TEXT,
    summary TEXT NOT NULL
) STRICT;

CREATE INDEX event_by_time ON event (at_unix_ms);
CREATE INDEX event_by_target ON event (target, at_unix_ms) WHERE target IS NOT NULL;
