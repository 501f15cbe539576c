"""Which tensors cells can have: the feasibility function phi, projection onto it, the least volume."""
