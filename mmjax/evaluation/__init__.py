"""Evaluation: metrics on arrays, zero-shot classification, retrieval, and the report that shows them.

`metrics` is NumPy alone and knows no model. `zero_shot` and `retrieval` turn embeddings and texts into metrics;
`suite` runs them over evaluation sources through an `Embedder`, so nothing here knows how an embedding is made.
`report` renders what a run learned as one HTML file.
"""
