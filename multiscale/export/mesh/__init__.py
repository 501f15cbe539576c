"""Surfaces: one mesh of a region, or one of every cell, placed many times."""
