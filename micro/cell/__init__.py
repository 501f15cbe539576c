"""One cell: its tensor, its octant and fundamental domain, sets of cells, pictures and readers."""
