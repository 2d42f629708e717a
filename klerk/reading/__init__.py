"""Reads: views, indexes and pages, by readers and snapshots."""
