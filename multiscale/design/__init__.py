"""The tensor field of a design: variables, feasibility, mass, optimiser."""
