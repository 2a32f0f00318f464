"""Evaluation: metrics on arrays, tasks on embeddings, suites of data sets, the report that shows them, and an index.

Of arrays alone: `metrics`, `ranking`, `exact`, `probe`, `compositional`, `clip_score`, `bootstrap`. `zero_shot` and
`retrieval` turn embeddings and texts into metrics, by class names and templates of `prompts`. `features` embeds a
source once through an `Embedder` (`embed` has the one over the mesh), so nothing else knows how an embedding is made;
`suite` is the evaluation of `data.eval`, `jobs` and `runner` that of a config file, `records` their results. `report`
renders them as one HTML file. `index` keeps the embeddings of a folder of images for search.
"""
