"""Runs for a reader: the report page, its tables and viewer, runs side by side."""
