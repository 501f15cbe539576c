"""The case on its grid: roles, tensors, loads, supports, mirror halves."""
