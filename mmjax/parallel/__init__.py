"""Mesh, partition rules, and the way between process-local and global arrays."""
