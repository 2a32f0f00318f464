"""Evaluation of models on sources of data.

`embedding/` embeds a source over the mesh, `evaluators/` has one file an evaluation, and `suite/` runs many datasets
and tasks from a config file. `from_config` is the evaluation of `data.eval`, `results` names the tasks and holds their
outcomes, `metric_columns` lays metrics out in tables, `prompts` has class names and templates, `example_selection` and
`example_sampler` choose what a report shows, and `heatmaps` draws attention. Metrics of arrays alone are in `metrics/`.
"""
