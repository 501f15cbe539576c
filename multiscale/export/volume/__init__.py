"""Voxels and fields: slices, SVX, VTK, OpenVDB."""
