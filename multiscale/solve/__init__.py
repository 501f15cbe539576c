"""Linear elasticity: PETSc on elements, matrix-free multigrid on voxels, ranks and threads."""
