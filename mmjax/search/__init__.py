"""Search over the embeddings of a folder's images."""
