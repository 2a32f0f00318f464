"""Evaluation of a model, by its own config or by a suite; only the evaluation data comes from elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmjax import __version__, tasks
from mmjax.config.typed_groups import to_dict
from mmjax.data.loading.corruption import Sweep
from mmjax.data.source_protocols import Source
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, from_config, metric_columns, task_choice
from mmjax.evaluation import results as results_lib
from mmjax.evaluation.config import SuiteConfig
from mmjax.evaluation.corrupted import checked_sweeps
from mmjax.evaluation.embedding import embedder as embedder_lib
from mmjax.evaluation.evaluation_task import EvaluatedModel
from mmjax.evaluation.evaluators.zero_shot import class_prompts
from mmjax.evaluation.suite import jobs, results_file, runner
from mmjax.evaluation.views import view_specs
from mmjax.inference.eval_model import EvalModel
from mmjax.io import paths
from mmjax.parallel import log, process_agreement
from mmjax.report import page as page_lib
from mmjax.tasks import config_queries
from mmjax.training import metrics_log
from mmjax.utils import terminal


def evaluate_model(model: EvalModel, *, workdir: Any = None, output: Any = None) -> list[dict[str, Any]]:
    """Evaluates a model on `data.eval` and writes the results.

    Args:
      model: as `open_workdir` or `open_model` gives it.
      workdir: of its run, where there is one.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report is a page beside it.

    Returns:
      CLIP_benchmark's records, one per dataset.

    Raises:
      UserError: nothing to evaluate, or data that cannot be read.
    """
    config = model.config
    with process_agreement.raise_on_all():
        if not config.data.eval:
            raise UserError("data.eval is empty; name the data, e.g. --config.data.eval=shapes/test+digits/test")
        path = output_path(model, workdir, output)
        evaluator = from_config.Evaluator(config, model.task, model.mesh, model.tokenizer)
    params = model.restore()
    name = model.name if model.step is None else f"step {model.step} of {model.name}"
    log.info(f"evaluating {name} on {config.data.eval}")
    results = evaluator.run(params, keep_artifacts=True)
    records = results_lib.to_records(results, model=config.variant, pretrained=model.pretrained)
    if jax.process_index() == 0:
        terminal.show(metric_columns.format_table(records))  # which needs no room on a disk
        results_file.write(
            path, results_file.merge(results_file.read(path), records, keep=lambda old: "settings" in old)
        )
        report_path = path.with_suffix(".html")
        page_lib.write_report(report_path, config, _history(workdir), results, step=model.step)
        terminal.show(f"\nresults: {path}\nreport:  {report_path}")
    return records


def output_path(model: EvalModel, workdir: Any, output: Any) -> Any:
    """The path of the results, beside which the report is written; their folder is made.

    Raises:
      UserError: no path is known, it is a folder, or it cannot be written to.
    """
    if output is None and workdir is None:
        raise UserError("--output is missing; a model that is no workdir has no place for results, so name a JSON file")
    path = paths.as_path(output) if output else paths.as_path(workdir) / "eval" / f"{model.step}.json"
    if output and (str(output).endswith("/") or path.suffix == ".html" or path.is_dir()):
        folder = path.parent if path.suffix == ".html" else path
        raise UserError(f"--output={output} is no JSON file; name one, such as {folder / 'results.json'}")
    if jax.process_index() == 0:
        paths.make_folder(path.parent, "--output" if output else "--workdir")
    return path


def evaluate_suite(
    model: EvalModel,
    config: SuiteConfig,
    *,
    workdir: Any = None,
    output: Any = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Runs a suite and writes every result as soon as it is there; what is finished already is left out.

    Args:
      model: as `open_workdir` or `open_model` gives it.
      config: the suite's, see `config.suite_recipe.load_suite`.
      workdir: of the model's run, where there is one.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report is a page beside it.
      overwrite: run what is finished, too.

    Returns:
      The records of all of the suite's evaluations, in its order.

    Raises:
      UserError: a mistake in the suite, a task that is not for the model, or data that is not there; before anything is
        computed.
    """
    with process_agreement.raise_on_all():
        path = output_path(model, workdir, output)
        suite_jobs = jobs.make_jobs(config)
        for job in suite_jobs:
            task_choice.check_model(job.tasks, model.task, f"datasets.{job.name}.tasks")
        sweeps = checked_sweeps(model.task, config)
        finished = {} if overwrite else _records_by_key(path)
    templates = {(job.name, task): _record(model, job, task, config) for job in suite_jobs for task in job.tasks}
    unfinished = _unfinished_tasks(suite_jobs, templates, finished)
    pending = [job for job in suite_jobs if unfinished[job.name]]
    _run_jobs(model, config, pending, unfinished, templates, path, sweeps)
    if jax.process_index() != 0:
        return []
    written = _records_by_key(path)
    pairs = [(written.get(results_file.record_key(template)), template) for template in templates.values()]
    records = [
        record for record, template in pairs if record is not None and results_file.has_same_settings(record, template)
    ]
    means = jobs.collection_means(records, config)
    sections = [results_file.read_section(path, record) for record in records]
    terminal.show(metric_columns.format_table(records))
    for name, (mean, count) in means.items():
        terminal.show(f"\nmean of the {count} datasets of {name}: {100 * mean:.2f}%")
    report_path = path.with_suffix(".html")
    paths.write_atomically(report_path, _render_suite_report(model, records, sections, means, _history(workdir)))
    terminal.show(f"\nresults: {path}\nreport:  {report_path}")
    return records


def _records_by_key(path: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """The records of a results file."""
    return {results_file.record_key(record): record for record in results_file.read(path)}


def _unfinished_tasks(
    suite_jobs: Sequence[jobs.Job],
    templates: Mapping[tuple[str, str], dict[str, Any]],
    finished: Mapping[tuple[str, ...], dict[str, Any]],
) -> dict[str, list[str]]:
    """The tasks of every job, by its name, that no finished record has the settings of; the same on every process."""
    is_finished = {
        name: results_file.has_same_settings(finished.get(results_file.record_key(template)), template)
        for name, template in templates.items()
    }
    unfinished = {job.name: [task for task in job.tasks if not is_finished[job.name, task]] for job in suite_jobs}
    unfinished = process_agreement.broadcast_from_0(unfinished)
    num_finished = len(templates) - sum(map(len, unfinished.values()))
    if num_finished:
        log.info(f"{num_finished} of {len(templates)} evaluations are finished already; --overwrite runs them again")
    return unfinished


def _run_jobs(
    model: EvalModel,
    config: SuiteConfig,
    pending: Sequence[jobs.Job],
    unfinished: Mapping[str, Sequence[str]],
    templates: Mapping[tuple[str, str], dict[str, Any]],
    path: Any,
    sweeps: tuple[Sweep, ...],
) -> None:
    """Runs tasks by name of their job; every record is written, with its part of the report, when it is there."""
    with process_agreement.raise_on_all():
        options = tasks.source_options(model.config, evaluation=True)
        opened = runner.open_jobs(pending, options, config, task=model.task, log=log.info)
        if not opened:
            return
        evaluated = EvaluatedModel.make(model.task, model.mesh, model.config, config)
        views = view_specs(model.task, config)
        names = dict.fromkeys(task for job in opened for task in unfinished[job.job.name])
        evaluators = runner.make_evaluators(names, evaluated)
        embedder = None
        if any(evaluation_task.load(name).embeds for name in names):
            batch_size = model.config.eval.batch_size
            embedder = embedder_lib.MeshEmbedder(model.task, model.mesh, evaluated.tokenizer, batch_size)
            embedder.specs = views or model.task.input_specs
    params = model.restore()
    if embedder is not None:
        embedder.bind(params)
    num_prompts = {job.job.name: _count_prompts(job.source) for job in opened}
    for job, outcome in runner.run(
        opened,
        unfinished,
        evaluators,
        params,
        evaluated.runner,
        model.task.input_specs,
        embedder,
        views=views,
        sweeps=sweeps,
        log=log.info,
    ):
        metrics = {name: float(value) for name, value in outcome.metrics.items()}
        record = templates[job.name, outcome.task] | {"metrics": metrics, "n": outcome.n}
        if outcome.task == results_lib.CLASSIFICATION:
            record["prompts"] = num_prompts[job.name]
        if jax.process_index() == 0:
            results_file.write_section(path, record, page_lib.render_section(outcome))
            results_file.write(path, results_file.merge(results_file.read(path), [record]))


def _render_suite_report(
    model: EvalModel,
    records: Sequence[dict[str, Any]],
    sections: Sequence[str],
    means: Mapping[str, tuple[float, int]],
    history: list[dict[str, Any]],
) -> str:
    seen = config_queries.first_modality(model.config)
    return page_lib.render_report(
        title=model.config.name if model.step is None else f"{model.config.name}, step {model.step:,}",
        config=to_dict(model.config),
        history=history,
        evaluations=[
            results_lib.Evaluation(
                record["dataset"],
                record["task"],
                record["n"],
                record["metrics"],
                unit=results_lib.unit(record["task"], seen),
            )
            for record in records
        ],
        sections=sections,
        means=means,
    )


def _history(workdir: Any) -> list[dict[str, Any]]:
    """The lines of the run's log; none for a model that is no workdir."""
    return [] if workdir is None else metrics_log.MetricsFile(paths.as_path(workdir) / "metrics.jsonl").lines()


def _count_prompts(source: Source) -> int:
    """The number of texts that name the classes, over all classes."""
    if not source.class_names or not source.templates:
        return 0
    return sum(map(len, class_prompts(source.class_names, source.templates)))


def _record(model: EvalModel, job: jobs.Job, task: str, config: SuiteConfig) -> dict[str, Any]:
    """The record of a task before it has run."""
    return {
        "dataset": job.name,
        "model": model.config.variant,
        "pretrained": model.pretrained,
        "task": task,
        "metrics": {},
        "language": job.language,
        "n": 0,
        "image_size": None if model.image_spec is None else model.image_spec.size,
        "precision": model.config.precision,
        "mmjax": __version__,
        "settings": job.settings(task, config, model.config),
        "identity": model.identity,
    }
