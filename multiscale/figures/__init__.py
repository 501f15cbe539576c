"""Pictures: arrays in, PNG out."""
