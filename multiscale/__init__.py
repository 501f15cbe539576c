"""Macro scale: elasticity on PETSc, tensor-field optimisation, lattices."""
