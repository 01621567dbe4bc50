-- A process reads the trackers that its step is about, and no longer all that have changed.
DROP INDEX trackers_changed;
ALTER TABLE trackers DROP COLUMN changed;
DROP INDEX trackers_open_slices;
CREATE INDEX trackers_open_slices ON trackers (budget, path) WHERE lease IS NOT NULL;
CREATE INDEX trackers_slices_of_lease ON trackers (lease) WHERE lease IS NOT NULL;
