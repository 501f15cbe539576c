"""The command ``multiscale``: thin wrappers around the functions of the other rooms."""
