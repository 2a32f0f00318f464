"""Embeddings of whole sources, over a mesh."""
