"""The data set: gathered, thinned, split, described."""
