"""Cells retrieved from a set and corrected toward a wanted tensor."""
