PRAGMA application_id = 1668049764;  -- "clkd"
CREATE TABLE account (
    name TEXT PRIMARY KEY NOT NULL,
    subscriptions TEXT NOT NULL,  -- JSON: by feed, period and deadband
    logins INTEGER NOT NULL,
    pushes INTEGER NOT NULL,
    first_seen REAL,  -- Unix seconds UTC, as all moments
    last_seen REAL
) WITHOUT ROWID;
CREATE TABLE sample (
    feed TEXT PRIMARY KEY NOT NULL,
    sequence INTEGER NOT NULL,
    stamp REAL NOT NULL,
    encoded BLOB NOT NULL  -- the value, in the dialect `pb` of Perspective Broker
) WITHOUT ROWID;
