"""Micro scale: cells, their homogenised tensors, gamut and generator."""
