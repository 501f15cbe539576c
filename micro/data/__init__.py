"""What comes with the program: data set, library, gamuts, weights, and their loaders."""
