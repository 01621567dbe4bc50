-- Callers that wait: the first of each process, as long as `until` is not over. `arrived_at` is in nanoseconds.
CREATE TABLE waiters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    budget INTEGER NOT NULL REFERENCES budgets (id),
    tracker INTEGER NOT NULL REFERENCES trackers (id),
    arrived_at INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    until REAL NOT NULL
);
CREATE INDEX waiters_of_budget ON waiters (budget);
