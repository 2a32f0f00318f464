"""Evaluation of models on sources of data.

`embedding/` embeds a source over the mesh, `evaluators/` has the evaluations (`evaluation_task.EvaluationTask`) that
the registry names, and `suite/` runs many datasets and tasks from a config file. `from_config` is the evaluation of
`data.eval`, `task_choice` compares what evaluations need with model and data, `results` holds their outcomes,
`metric_columns` lays metrics out in tables, `prompts` has class names and templates, `example_selection` and
`example_sampler` choose what a report shows, and `heatmaps` draws attention. Metrics of arrays alone are in `metrics/`.
"""
