"""Data sources, one file a prefix."""
