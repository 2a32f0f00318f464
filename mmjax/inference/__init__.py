"""Models restored for use: loading, calling, evaluating, converting."""
