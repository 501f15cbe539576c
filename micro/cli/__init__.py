"""The command ``micro``: thin wrappers around the functions of the other rooms."""
