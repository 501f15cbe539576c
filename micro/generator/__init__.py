"""Cells for wanted tensors: drawn, screened, steered and refined."""
