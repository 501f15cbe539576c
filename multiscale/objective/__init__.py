"""What a structure is for: values, slopes, influence of errors, one entry a purpose."""
