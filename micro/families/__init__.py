"""Cells by formula: trusses, plates, surfaces."""
