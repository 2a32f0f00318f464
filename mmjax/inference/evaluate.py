"""Evaluates a model by itself: everything but the evaluation data comes from the workdir, or from a file of weights."""

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from mmjax import __version__
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe
from mmjax.data import mixture
from mmjax.errors import UserError
from mmjax.evaluation import from_config, metric_columns
from mmjax.evaluation import results as results_lib
from mmjax.evaluation.embedding import embedder as embedder_lib
from mmjax.evaluation.evaluators.zero_shot import class_prompts
from mmjax.evaluation.suite import jobs, results_file, runner
from mmjax.inference.eval_model import Model
from mmjax.io import paths
from mmjax.parallel import log, process_agreement
from mmjax.report import page as page_lib
from mmjax.tasks import capabilities
from mmjax.training import metrics_log


def read_suite(
    spec: str, overrides: Sequence[tuple[str, str]]
) -> tuple[ml_collections.ConfigDict, list[tuple[str, str]]]:
    """Reads a suite's file; returns it with the overrides of its fields, and the other overrides.

    Raises:
      UserError: no such file, or it describes no suite.
    """
    config = recipe.run_file(spec)
    lacking = sorted(set(jobs.suite_config()) - set(config))
    if lacking:
        raise UserError(
            f"--config={spec}: this is no evaluation suite (it has no field {lacking[0]!r}); start from"
            " mmjax.evaluation.suite.jobs.suite_config()"
        )
    config.lock()
    own = [(path, text) for path, text in overrides if path.split(".")[0] in config]
    overrides_lib.apply(config, own)
    return config, [each for each in overrides if each not in own]


def evaluate_model(model: Model, *, workdir: Any = None, output: Any = None) -> list[dict[str, Any]]:
    """Evaluates a model on `data.eval` and writes the results.

    Args:
      model: as `open_workdir` or `open_model` gives it.
      workdir: of its run, where there is one.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report goes beside it, by default to the workdir.

    Returns:
      CLIP_benchmark's records, one per dataset.

    Raises:
      UserError: nothing to evaluate, or data that cannot be read.
    """
    config = model.config
    with process_agreement.raise_on_all():
        if not config.data.eval:
            raise UserError("data.eval is empty; name the data, e.g. --config.data.eval=shapes/test+digits/test")
        evaluator = from_config.Evaluator(config, model.task, model.mesh, model.tokenizer, model.image_spec)
        path, page = output_paths(model, workdir, output)
    params = model.restore()
    told = model.name if model.step is None else f"step {model.step} of {model.name}"
    log.info(f"evaluating {told} on {config.data.eval}")
    results = evaluator.run(params, keep_artifacts=True)
    records = results_lib.to_records(results, model=config.variant, pretrained=model.pretrained)
    if jax.process_index() == 0:
        results_file.write(
            path, results_file.merge(results_file.read(path), records, keep=lambda old: "settings" in old)
        )
        history = [] if workdir is None else metrics_log.MetricsFile(paths.as_path(workdir) / "metrics.jsonl").lines()
        page_lib.write_report(page, config, history, results, step=model.step)
        print(metric_columns.format_table(records))
        print(f"\nresults: {path}\nreport:  {page}")
    return records


def output_paths(model: Model, workdir: Any, output: Any) -> tuple[Any, Any]:
    """Where results and report go; their folder is made.

    Raises:
      UserError: no place is known, or it cannot be written to.
    """
    if output is None and workdir is None:
        raise UserError("--output is missing; a model that is no workdir has no place for results, so name a JSON file")
    path = paths.as_path(output) if output else paths.as_path(workdir) / "eval" / f"{model.step}.json"
    if jax.process_index() == 0:
        paths.make_folder(path.parent, "--output" if output else "--workdir")
    # The workdir's report is of its own data; results that go elsewhere take theirs along.
    return path, path.with_suffix(".html") if output else paths.as_path(workdir) / "report.html"


def evaluate_suite(
    model: Model, config: ml_collections.ConfigDict, *, workdir: Any = None, output: Any = None, again: bool = False
) -> list[dict[str, Any]]:
    """Runs a suite and writes every result as soon as it is there; what is finished already is left out.

    Args:
      model: as `open_workdir` or `open_model` gives it.
      config: the suite's, see `jobs.suite_config`.
      workdir: of the model's run, where there is one.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report goes beside it, by default to the workdir.
      again: run what is finished, too.

    Returns:
      The records of all of the suite's evaluations, in its order.

    Raises:
      UserError: a mistake in the suite, or data that is not there; before anything is computed.
    """
    with process_agreement.raise_on_all():
        capabilities.check(model.task, "encode_image", "--config: a suite, which embeds images and texts,")
        wanted = jobs.make_jobs(config)
        path, page = output_paths(model, workdir, output)
        finished = {} if again else {results_file.key(record): record for record in results_file.read(path)}
    is_finished = lambda record: results_file.same(finished.get(results_file.key(record)), record)
    empty = {(job.name, task): _record(model, job, task, config) for job in wanted for task in job.tasks}
    tasks = {job.name: [t for t in job.tasks if not is_finished(empty[job.name, t])] for job in wanted}
    tasks = process_agreement.broadcast_from_0(tasks)
    left = sum(map(len, tasks.values()))
    if left < len(empty):
        log.info(f"{len(empty) - left} of {len(empty)} evaluations are finished already; --again runs them again")
    with process_agreement.raise_on_all():
        options = mixture.make_options(model.config, evaluation=True)
        pending = [job for job in wanted if tasks[job.name]]
        opened = runner.open_jobs(pending, options, config, say=log.info)
        if opened:
            embedder = embedder_lib.MeshEmbedder(model.task, model.mesh, model.tokenizer, model.config.eval.batch_size)
    if opened:
        embedder.bind(model.restore())
        counts = {each.job.name: _count_prompts(each.source) for each in opened}
        for job, outcome in runner.run(opened, tasks, embedder, model.image_spec, config, say=log.info):
            metrics = {name: float(value) for name, value in outcome.metrics.items()}
            record = empty[job.name, outcome.task] | {"metrics": metrics, "n": outcome.n}
            if outcome.task == metric_columns.CLASSIFICATION:
                record["prompts"] = counts[job.name]
            if jax.process_index() == 0:
                results_file.write_section(path, record, page_lib.render_section(outcome))
                results_file.write(path, results_file.merge(results_file.read(path), [record]))
    if jax.process_index() != 0:
        return []
    found = {results_file.key(record): record for record in results_file.read(path)}
    records = [
        found[results_file.key(record)]
        for record in empty.values()
        if results_file.same(found.get(results_file.key(record)), record)
    ]
    history = [] if workdir is None else metrics_log.MetricsFile(paths.as_path(workdir) / "metrics.jsonl").lines()
    means = jobs.means(records, config)
    title = model.config.name if model.step is None else f"{model.config.name}, step {model.step:,}"
    evaluations = [
        results_lib.Evaluation(each["dataset"], each["task"], each["n"], each["metrics"]) for each in records
    ]
    sections = [results_file.read_section(path, record) for record in records]
    text = page_lib.render_report(
        title=title,
        config=model.config.to_dict(),
        history=history,
        evaluations=evaluations,
        sections=sections,
        means=means,
    )
    paths.write_atomically(page, text)
    print(metric_columns.format_table(records))
    for name, (mean, count) in means.items():
        print(f"\nmean of the {count} datasets of {name}: {100 * mean:.2f}%")
    print(f"\nresults: {path}\nreport:  {page}")
    return records


def _count_prompts(source: Any) -> int:
    """How many texts the classes are told by, over all classes."""
    known = source.class_names and source.templates
    return sum(map(len, class_prompts(source.class_names, source.templates))) if known else 0


def _record(model: Model, job: jobs.Job, task: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
    return {
        "dataset": job.name,
        "model": model.config.variant,
        "pretrained": model.pretrained,
        "task": task,
        "metrics": {},
        "language": job.language,
        "n": 0,
        "image_size": model.image_spec.size,
        "precision": model.config.precision,
        "mmjax": __version__,
        "settings": job.settings(task, config),
        "identity": model.identity,
    }
