"""Evaluates a checkpoint by itself: everything but the evaluation data comes from the workdir."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from mmjax import config as config_lib
from mmjax import storage, tasks
from mmjax.data.images import ImageSpec
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation import embed, report, suite
from mmjax.parallel import distributed, partition
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint, logs

# What an evaluation may change; the rest describes the model that was trained.
_FREE = (
    "data.eval",
    "eval.",
    "mesh.",
    "precision",
    "attention",
    "loss.",
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
    config_lib.apply_overrides(config, overrides)


def evaluate_workdir(
    config: ml_collections.ConfigDict,
    workdir: Any,
    meta: dict[str, Any],
    *,
    step: int | None = None,
    output: Any = None,
) -> list[dict[str, Any]]:
    """Restores a checkpoint over the mesh, evaluates it and writes the results.

    Args:
      config: the stored config, with what this evaluation changes.
      workdir: of the run.
      meta: the checkpoint's, as `read_meta` gives it.
      step: checkpoint; the latest by default.
      output: JSON file; `WORKDIR/eval/STEP.json` by default. The report goes beside it, by default to the workdir.

    Returns:
      CLIP_benchmark's records, one per dataset.

    Raises:
      UserError: nothing to evaluate, or data that cannot be read.
    """
    with distributed.together():
        if not config.data.eval:
            raise UserError("data.eval is empty; name the data, e.g. --config.data.eval=shapes/test+digits/test")
        workdir = storage.as_path(workdir)
        mesh = mesh_lib.make_mesh(config.mesh)
        image_spec = ImageSpec(**meta["preprocessing"])
        tokenizer = tasks.make_tokenizer(config, file=checkpoint.tokenizer_file(meta))
        task = tasks.ContrastiveTask(config, image_spec.mean, image_spec.std, mesh)
        evaluator = embed.Evaluator(config, task, mesh, tokenizer, image_spec)

        abstract = jax.eval_shape(task.init, jax.random.key(0))
        shardings, _ = partition.param_shardings(abstract, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)
        target = partition.placed_shapes(abstract, shardings)
        checkpoints = open_checkpoints(workdir)
    try:
        # A run that is still going may save another one between two hosts' looks.
        with distributed.together():
            step = choose_step(checkpoints, step)
        step = distributed.from_first(step)
        params = checkpoints.restore_params(step, target)
    finally:
        checkpoints.close()

    logs.say(f"evaluating step {step} of {workdir} on {config.data.eval}")
    results = evaluator.run(params, keep_artifacts=True)
    records = suite.to_records(results, model=config.variant, pretrained=f"{workdir}@{step}")
    if jax.process_index() == 0:
        path = storage.as_path(output) if output else workdir / "eval" / f"{step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_atomically(path, json.dumps(records, indent=2) + "\n")
        history = logs.MetricsFile(workdir / "metrics.jsonl").lines()
        # The workdir's report is of its own data; results that go elsewhere take theirs along.
        page = path.with_suffix(".html") if output else workdir / "report.html"
        report.write_report(page, config, history, results, step=step)
        print(suite.format_table(records))
        print(f"\nresults: {path}\nreport:  {page}")
    return records
