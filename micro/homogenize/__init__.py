"""Effective tensors of voxel cells, their sensitivities, and steps toward a wanted tensor."""
