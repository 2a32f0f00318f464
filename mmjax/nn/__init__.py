"""Layers: attention, transformer, pooling, patch and token embedding, dropout. No knowledge of tasks."""
