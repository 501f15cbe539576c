"""Cells as level sets: the shape space, and how tensors change with it."""
