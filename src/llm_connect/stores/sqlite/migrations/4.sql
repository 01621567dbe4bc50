-- A process reads the trackers that its step is about, and no longer all that have changed.
DROP INDEX trackers_changed;
ALTER TABLE trackers DROP COLUMN changed;
-- "Slices" are allotments now; only open ones have a lease.
ALTER TABLE trackers DROP COLUMN is_slice;
ALTER TABLE trackers RENAME COLUMN tokens_sliced TO tokens_allotted;
ALTER TABLE trackers RENAME COLUMN calls_sliced TO calls_allotted;
ALTER TABLE trackers RENAME COLUMN nano_usd_sliced TO nano_usd_allotted;
DROP INDEX trackers_open_slices;
CREATE INDEX trackers_open_allotments ON trackers (budget, path) WHERE lease IS NOT NULL;
CREATE INDEX trackers_allotments_of_lease ON trackers (lease) WHERE lease IS NOT NULL;
