"""WebDataset shards: listing, scanning, indexing, caching."""
