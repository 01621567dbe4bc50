CREATE TABLE budgets (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    on_unknown TEXT NOT NULL,
    created_at REAL NOT NULL
);
-- A budget and its children; `lease` is that of the process that keeps a slice open.
CREATE TABLE trackers (
    id INTEGER PRIMARY KEY,
    budget INTEGER NOT NULL REFERENCES budgets (id),
    parent INTEGER REFERENCES trackers (id),
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    joined INTEGER NOT NULL,
    is_slice INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    lease INTEGER,
    changed INTEGER NOT NULL,
    tokens_limit INTEGER,
    tokens_spent INTEGER NOT NULL DEFAULT 0,
    tokens_held INTEGER NOT NULL DEFAULT 0,
    tokens_presumed INTEGER NOT NULL DEFAULT 0,
    tokens_sliced INTEGER NOT NULL DEFAULT 0,
    calls_limit INTEGER,
    calls_spent INTEGER NOT NULL DEFAULT 0,
    calls_held INTEGER NOT NULL DEFAULT 0,
    calls_presumed INTEGER NOT NULL DEFAULT 0,
    calls_sliced INTEGER NOT NULL DEFAULT 0,
    nano_usd_limit INTEGER,
    nano_usd_spent INTEGER NOT NULL DEFAULT 0,
    nano_usd_held INTEGER NOT NULL DEFAULT 0,
    nano_usd_presumed INTEGER NOT NULL DEFAULT 0,
    nano_usd_sliced INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX trackers_changed ON trackers (budget, changed);
CREATE INDEX trackers_joined ON trackers (parent, name) WHERE joined;
CREATE INDEX trackers_open_slices ON trackers (budget) WHERE lease IS NOT NULL;
-- One for each process that has open holds. The number of a lease is never given again.
CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    budget INTEGER NOT NULL REFERENCES budgets (id),
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    expires_at REAL NOT NULL
);
CREATE TABLE holds (
    id INTEGER PRIMARY KEY,
    lease INTEGER NOT NULL,
    tracker INTEGER NOT NULL REFERENCES trackers (id),
    state TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    max_tokens INTEGER,
    grade TEXT NOT NULL,
    adapter TEXT,
    model TEXT,
    labels TEXT,
    reserved_at REAL NOT NULL
);
-- `open` marks what was presumed and not corrected yet; `lease` and `hold` what a lost process has left.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    budget INTEGER NOT NULL REFERENCES budgets (id),
    tracker INTEGER,
    path TEXT NOT NULL,
    outcome TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    bound_tokens INTEGER NOT NULL,
    bound_calls INTEGER NOT NULL,
    bound_nano_usd INTEGER NOT NULL,
    grade TEXT NOT NULL,
    adapter TEXT,
    model TEXT,
    labels TEXT,
    usage TEXT,
    cost TEXT,
    cost_source TEXT,
    request_id TEXT,
    reserved_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    corrects INTEGER,
    open INTEGER NOT NULL,
    lease INTEGER,
    hold INTEGER
);
CREATE INDEX ledger_left ON ledger (lease, hold) WHERE lease IS NOT NULL;
-- By how much the bounds of an adapter and model are raised after overruns.
CREATE TABLE learned (
    budget INTEGER NOT NULL REFERENCES budgets (id),
    adapter TEXT,
    model TEXT,
    prompt_permille INTEGER NOT NULL,
    prompt_extra INTEGER NOT NULL,
    completion_permille INTEGER NOT NULL,
    completion_extra INTEGER NOT NULL,
    cost_permille INTEGER NOT NULL,
    cost_extra INTEGER NOT NULL
);
