"""Admission and booking: everything that happens under the one lock of a tree of trackers."""
