"""Voxel elasticity compiled for the processor: layouts, products, transfers between grids, cycles, steps.

Everything releases Python's lock. Compiled code is kept beside these files and made anew when one of them
changes (half a minute; :mod:`micro.voxels.compilation`).
"""
