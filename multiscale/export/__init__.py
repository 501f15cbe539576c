"""Writers of lattices and fields for other programs."""
