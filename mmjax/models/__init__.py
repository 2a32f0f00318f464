"""Models by kind, one file each: encoders, heads, fusion, generation, initialisation; `variants` has their sizes."""
