"""Elasticity on voxels: the hexahedron, Galerkin multigrid and conjugate gradients, compiled and by torch."""
