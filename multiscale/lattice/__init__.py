"""The lattice: unique cells and a map of indices; contacts, pieces, blocks."""
