"""A conditional diffusion model of cells in a shape space."""
