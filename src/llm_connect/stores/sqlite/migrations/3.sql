-- What a tracker with a period has spent in the parts of it that have ended, until they leave the window. `parts` is a
-- list of [expires_at, first, spent tokens, calls, nano-USD, presumed tokens, calls, nano-USD]; the present part ends
-- at `ends_at`, and has what else is spent. `first`: the least id that entries of a part may have in the ledger.
CREATE TABLE windows (
    tracker INTEGER PRIMARY KEY REFERENCES trackers (id),
    period TEXT NOT NULL,
    ends_at REAL NOT NULL,
    first INTEGER NOT NULL,
    parts TEXT NOT NULL
);
