"""Small data structures without a subject of their own."""
