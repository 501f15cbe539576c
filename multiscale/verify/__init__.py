"""The lattice at full scale, voxel by voxel, and under loads it was not designed for."""
