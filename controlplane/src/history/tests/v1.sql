-- A history as version 1 of the schema wrote it: see `opening.rs`.
PRAGMA application_id = 1919710056;
PRAGMA user_version = 1;
CREATE TABLE chunk (
    key INTEGER PRIMARY KEY,
    intervals BLOB NOT NULL
) STRICT;
INSERT INTO "chunk" VALUES(168271049,X'016E1D7EDC4C3020FF831483000083F80A00000000000000000106B0C13802');
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at_unix_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    target TEXT,
    alertname TEXT,
    severity TEXT,
    summary TEXT NOT NULL
) STRICT;
INSERT INTO "event" VALUES(1,1796000400000,1,'a',NULL,NULL,'a does not answer');
CREATE TABLE head (
    key INTEGER PRIMARY KEY,
    records BLOB NOT NULL
) STRICT;
INSERT INTO "head" VALUES(1183053451651710976,X'01010F0C140000A00B000000000000000006020300000E');
CREATE TABLE hour (
    key INTEGER PRIMARY KEY,
    chunks INTEGER NOT NULL,
    intervals INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO "hour" VALUES(34053321,1,3,31);
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    family TEXT NOT NULL,
    UNIQUE (name, family)
) STRICT;
INSERT INTO "target" VALUES(1,'a','ipv4');
INSERT INTO "target" VALUES(2,'b','ipv4');
CREATE INDEX event_by_time ON event (at_unix_ms);
CREATE INDEX event_by_target ON event (target, at_unix_ms) WHERE target IS NOT NULL;
