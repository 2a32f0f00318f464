"""Metrics: NumPy on scores, ranks, texts and labels."""
