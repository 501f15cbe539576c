"""What a user writes: the case file, validated."""
