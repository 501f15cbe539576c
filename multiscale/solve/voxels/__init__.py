"""Voxel models, matrix-free: multigrid, exact solves of regions, conjugate gradients, threads and slabs."""
