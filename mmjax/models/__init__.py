"""Assemblies of layers: encoders, heads and the two-tower model; `variants` is the size table."""
