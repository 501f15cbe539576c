"""Can it be printed: features, cavities, overhangs, and what a printer needs."""
