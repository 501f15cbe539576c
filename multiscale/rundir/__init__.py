"""A run on disk: stages, metrics, provenance, and its reader."""
