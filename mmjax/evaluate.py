"""Evaluates a model by itself: everything but the evaluation data comes from the workdir, or from a file of weights."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from mmjax import __version__, override, storage, tasks
from mmjax import config as config_lib
from mmjax import opened as opened_lib
from mmjax.data import specs
from mmjax.data.images import ImageSpec
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation import embed, jobs, report, runner, suite, tables
from mmjax.evaluation import evaluator as evaluator_lib
from mmjax.evaluation import records as records_lib
from mmjax.evaluation.zero_shot import class_prompts
from mmjax.parallel import arrays, distributed, partition
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks import abilities
from mmjax.training import checkpoint, logs

# What an evaluation may change; the rest describes the model that was trained.
_FREE = (
    "data.eval",
    "eval.",
    "mesh.",
    "precision",
    "attention",
    "loss.",
    "decoding.",
    "deterministic",
    "compilation_cache",
    "xla_flags",
)


def open_checkpoints(workdir: Any) -> checkpoint.Checkpoints:
    """Opens a workdir's checkpoints for reading.

    Raises:
      UserError: there is no workdir, or no complete checkpoint in it.
    """
    folder = storage.as_path(workdir) / "checkpoints"
    if not folder.exists():
        raise UserError(f"--workdir={workdir}: there is no {folder}; give the --workdir of a training run")
    checkpoints = checkpoint.Checkpoints(folder, read_only=True)
    if checkpoints.latest() is None:
        raise UserError(f"--workdir={workdir}: no complete checkpoint in {folder}; train until one has been saved")
    return checkpoints


def choose_step(checkpoints: checkpoint.Checkpoints, step: int | None) -> int:
    """The step asked for, or the latest.

    Raises:
      UserError: there is no such checkpoint.
    """
    steps = checkpoints.all_steps()
    if step is not None and step not in steps:
        raise UserError(f"--step={step}: there is no such checkpoint; there are {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def read_meta(workdir: Any, step: int | None = None) -> dict[str, Any]:
    """Reads what a checkpoint tells about itself: config, preprocessing, tokenizer, versions."""
    checkpoints = open_checkpoints(workdir)
    try:
        return checkpoints.read_meta(choose_step(checkpoints, step))
    finally:
        checkpoints.close()


def apply_overrides(config: ml_collections.ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Changes fields of a stored config that an evaluation may change.

    Raises:
      UserError: the field describes the trained model, or does not exist.
    """
    for path, text in overrides:
        if path in config_lib.flatten(config) and not path.startswith(_FREE):
            known = ", ".join(field.rstrip(".") for field in _FREE)
            raise UserError(
                f"--config.{path}={text}: this belongs to the trained model; an evaluation may change {known}"
                f"{did_you_mean(path, _FREE)}"
            )
    override.apply(config, overrides)


def read_suite(
    spec: str, overrides: Sequence[tuple[str, str]]
) -> tuple[ml_collections.ConfigDict, list[tuple[str, str]]]:
    """Reads a suite's file; returns it with the overrides of its fields, and the other overrides.

    Raises:
      UserError: no such file, or it describes no suite.
    """
    config = config_lib.run_file(spec)
    lacking = sorted(set(jobs.suite_config()) - set(config))
    if lacking:
        raise UserError(
            f"--config={spec}: this is no evaluation suite (it has no field {lacking[0]!r}); start from"
            " mmjax.evaluation.jobs.suite_config()"
        )
    config.lock()
    own = [(path, text) for path, text in overrides if path.split(".")[0] in config]
    override.apply(config, own)
    return config, [each for each in overrides if each not in own]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to embed with, before its parameters are there.

    Attributes:
      config: of the run, or made for weights of another library, with what this evaluation changes.
      mesh, task, tokenizer, image_spec: see `evaluator_lib.Evaluator`.
      name: of the run or the file, for people.
      step: of the run; None for weights of another library.
      identity: differs between models whose results differ.
      restore: reads the parameters over the mesh.
    """

    config: ml_collections.ConfigDict
    mesh: Any
    task: Any
    tokenizer: Any
    image_spec: ImageSpec
    name: str
    step: int | None
    identity: str
    restore: Callable[[], Any]

    @property
    def pretrained(self) -> str:
        """What CLIP_benchmark's records call the weights."""
        return self.name if self.step is None else f"{self.name}@{self.step}"


def open_workdir(
    config: ml_collections.ConfigDict, workdir: Any, meta: dict[str, Any], *, step: int | None = None
) -> Model:
    """Prepares a run's model; every process calls it.

    Args:
      config: the stored config, with what this evaluation changes.
      workdir: of the run.
      meta: the checkpoint's, as `read_meta` gives it.
      step: checkpoint; the latest by default.

    Raises:
      UserError: there is no such checkpoint, or the devices do not fit the config.
    """
    with distributed.together():
        workdir = storage.as_path(workdir)
        mesh = mesh_lib.make_mesh(config.mesh)
        image_spec = ImageSpec(**meta["preprocessing"]) if meta["preprocessing"] else None
        tokenizer = tasks.make_tokenizer(config, file=checkpoint.tokenizer_file(meta))
        facts = tasks.DataFacts.from_json(meta.get("facts", {}))
        task = tasks.Task(config, image_spec, tokenizer, mesh, facts)
        abstract = jax.eval_shape(task.init, jax.random.key(0))
        target = partition.placed_shapes(abstract, _shardings(abstract, config, mesh))
        checkpoints = open_checkpoints(workdir)
    try:
        # A run that is still going may save another one between two hosts' looks.
        with distributed.together():
            step = choose_step(checkpoints, step)
        step = distributed.from_first(step)
    finally:
        checkpoints.close()

    def restore():
        checkpoints = open_checkpoints(workdir)
        try:
            return checkpoints.restore_params(step, target)
        finally:
            checkpoints.close()

    # Of the checkpoint's own words alone, so that a run that was moved keeps its results.
    told = json.dumps([meta, step, config.precision], sort_keys=True, default=str)
    identity = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    return Model(config, mesh, task, tokenizer, image_spec, str(workdir), step, identity, restore)


def open_model(
    path: Any,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    tokenizer: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Prepares a model in any format that `mmjax.load` reads; every process calls it.

    Its parameters are read here, straight to their places on the mesh.

    Args:
      path: see `mmjax.load`.
      overrides: of fields that an evaluation may change.
      tokenizer: as `data.tokenizer` has it; what lies beside the weights by default.
      changes: settings that the file does not tell, see `interop.settings.apply`.

    Raises:
      UserError: as `mmjax.load`, or an override of a field that describes the model.
    """
    with distributed.together():
        opened = opened_lib.open_path(path, tokenizer=tokenizer, settings=changes)
        config = opened.config
        apply_overrides(config, overrides)
        image_spec = opened.image_spec
        mesh = mesh_lib.make_mesh(config.mesh)
        task = opened.make_task(mesh)
        made = opened.make_tokenizer()
        places = opened_lib.shardings(opened.shapes, config, mesh)
        is_run = opened_lib.is_workdir(path)
        params = None if is_run else opened.read(places)
    if is_run:
        params = opened.read(places)  # Orbax lets the processes wait for each other
    identity = f"{digest(params)} {config.precision}"
    if image_spec is not None and image_spec.image_rule != "mmjax":
        # Files of two libraries may hold the same weights; results from before there were rules are not these.
        told = json.dumps(image_spec.of_evaluation(), sort_keys=True)
        identity += f" {hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}"
    return Model(config, mesh, task, made, image_spec, str(path), None, identity, lambda: params)


def digest(params: Any) -> str:
    """A hash of all parameters, the same on any mesh."""
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        array = np.ascontiguousarray(arrays.to_host(leaf))
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _shardings(params: Any, config: ml_collections.ConfigDict, mesh: Any) -> Any:
    return partition.param_shardings(params, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)[0]


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
    with distributed.together():
        if not config.data.eval:
            raise UserError("data.eval is empty; name the data, e.g. --config.data.eval=shapes/test+digits/test")
        evaluator = evaluator_lib.Evaluator(config, model.task, model.mesh, model.tokenizer, model.image_spec)
        path, page = places(model, workdir, output)
    params = model.restore()
    told = model.name if model.step is None else f"step {model.step} of {model.name}"
    logs.say(f"evaluating {told} on {config.data.eval}")
    results = evaluator.run(params, keep_artifacts=True)
    records = suite.to_records(results, model=config.variant, pretrained=model.pretrained)
    if jax.process_index() == 0:
        records_lib.write(path, records_lib.merge(records_lib.read(path), records, keep=lambda old: "settings" in old))
        history = [] if workdir is None else logs.MetricsFile(storage.as_path(workdir) / "metrics.jsonl").lines()
        report.write_report(page, config, history, results, step=model.step)
        print(tables.format_table(records))
        print(f"\nresults: {path}\nreport:  {page}")
    return records


def places(model: Model, workdir: Any, output: Any) -> tuple[Any, Any]:
    """Where results and report go; their folder is made.

    Raises:
      UserError: no place is known, or it cannot be written to.
    """
    if output is None and workdir is None:
        raise UserError("--output is missing; a model that is no workdir has no place for results, so name a JSON file")
    path = storage.as_path(output) if output else storage.as_path(workdir) / "eval" / f"{model.step}.json"
    if jax.process_index() == 0:
        storage.make_folder(path.parent, "--output" if output else "--workdir")
    # The workdir's report is of its own data; results that go elsewhere take theirs along.
    return path, path.with_suffix(".html") if output else storage.as_path(workdir) / "report.html"


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
    with distributed.together():
        abilities.check(model.task, "encode_image", "--config: a suite, which embeds images and texts,")
        wanted = jobs.make_jobs(config)
        path, page = places(model, workdir, output)
        finished = {} if again else {records_lib.key(record): record for record in records_lib.read(path)}
    is_finished = lambda record: records_lib.same(finished.get(records_lib.key(record)), record)
    empty = {(job.name, task): _record(model, job, task, config) for job in wanted for task in job.tasks}
    tasks = {job.name: [t for t in job.tasks if not is_finished(empty[job.name, t])] for job in wanted}
    tasks = distributed.from_first(tasks)
    left = sum(map(len, tasks.values()))
    if left < len(empty):
        logs.say(f"{len(empty) - left} of {len(empty)} evaluations are finished already; --again runs them again")
    with distributed.together():
        options = specs.make_options(model.config, evaluation=True)
        pending = [job for job in wanted if tasks[job.name]]
        opened = runner.open_jobs(pending, options, config, say=logs.say)
        if opened:
            embedder = embed.MeshEmbedder(model.task, model.mesh, model.tokenizer, model.config.eval.batch_size)
    if opened:
        embedder.bind(model.restore())
        counts = {each.job.name: _count_prompts(each.source) for each in opened}
        for job, outcome in runner.run(opened, tasks, embedder, model.image_spec, config, say=logs.say):
            metrics = {name: float(value) for name, value in outcome.metrics.items()}
            record = empty[job.name, outcome.task] | {"metrics": metrics, "n": outcome.n}
            if outcome.task == tables.CLASSIFICATION:
                record["prompts"] = counts[job.name]
            if jax.process_index() == 0:
                records_lib.write_section(path, record, report.render_section(outcome))
                records_lib.write(path, records_lib.merge(records_lib.read(path), [record]))
    if jax.process_index() != 0:
        return []
    found = {records_lib.key(record): record for record in records_lib.read(path)}
    records = [
        found[records_lib.key(record)]
        for record in empty.values()
        if records_lib.same(found.get(records_lib.key(record)), record)
    ]
    history = [] if workdir is None else logs.MetricsFile(storage.as_path(workdir) / "metrics.jsonl").lines()
    means = jobs.means(records, config)
    title = model.config.name if model.step is None else f"{model.config.name}, step {model.step:,}"
    evaluations = [suite.Evaluation(each["dataset"], each["task"], each["n"], each["metrics"]) for each in records]
    sections = [records_lib.read_section(path, record) for record in records]
    text = report.render_report(
        title=title,
        config=model.config.to_dict(),
        history=history,
        evaluations=evaluations,
        sections=sections,
        means=means,
    )
    storage.write_atomically(page, text)
    print(tables.format_table(records))
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
