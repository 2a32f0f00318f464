"""Evaluation suites: datasets with their sources, prompts and tasks, and collections of them."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax import plugin_imports
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.evaluation import prompts
from mmjax.evaluation.results import CLASSIFICATION, RETRIEVAL, TASKS
from mmjax.metrics.clip_score import PROMPT

SUITE_TASKS = tuple(name for name, info in TASKS.items() if info.in_suite)


def suite_config(root: str = "data", collection: str = "embedded", plugins: Sequence[str] = ()) -> ConfigDict:
    """An empty suite, to be filled by a config file.

    Args:
      root: folder or URL that stands for {root} in sources.
      collection: which datasets to run: a collection, or names of datasets and collections joined by "+".
      plugins: modules of others that register what the suite names; they are imported, see `plugin_imports`.
    """
    config = ConfigDict()
    config.plugins = plugin_imports.import_plugins(plugins)
    config.root = root
    config.collection = collection
    config.missing = "error"  # what a dataset that cannot be opened is: 'error', or 'skip' to go on without it
    config.seed = 0  # of the probe's split, few-shot episodes and the bootstrap
    config.bootstrap = 0  # resamples for 95 % intervals of zero-shot accuracy, recalls and CLIPScore; 0 = none
    config.clip_score = dict(prefix=PROMPT)  # what captions and references begin with
    config.knn = dict(ks=(10, 20), vote="weighted")  # or 'plain'; see mmjax.evaluation.evaluators.probes
    config.few_shot = dict(ways=5, shots=(1, 5), queries=15, episodes=600, head="centroid")  # or 'logistic'
    config.datasets = ConfigDict(sort_keys=False)
    config.collections = ConfigDict(sort_keys=False)
    return config


def dataset(
    source: str,
    *tasks: str,
    train: str = "",
    prompts: str = "",
    main_metric: str = "",
    fold_size: int = 0,
    language: str = "en",
    image_key: str = "",
    caption_keys: str = "",
) -> ConfigDict:
    """An entry of a suite.

    Args:
      source: as `data.eval` has it; {root} stands for the suite's.
      *tasks: of SUITE_TASKS.
      train: source of the images that probes learn from.
      prompts: see `prompts.apply`; "" takes the source's own, or the published ones where its name is known.
      main_metric: what stands for the dataset in a mean over several; by default `acc1`, in retrieval
        `mean_recall@1` (of both directions).
      fold_size: images in a fold of retrieval (1000 for COCO's 1k protocol); 0 = no folds.
      language: of the texts, for the records.
      image_key, caption_keys: as `data.image_key` and `data.caption_keys`, of this dataset; "" finds them.
    """
    return ConfigDict(
        dict(
            source=source,
            tasks=tasks or (CLASSIFICATION,),
            train=train,
            prompts=prompts,
            main_metric=main_metric,
            fold_size=fold_size,
            language=language,
            image_key=image_key,
            caption_keys=caption_keys,
        )
    )


def check_fields(suite: ConfigDict, origin: str) -> None:
    """Checks that a suite has no field that nothing reads, and none that is empty or of another kind.

    Args:
      suite: as its file fills it.
      origin: of the suite; messages begin with it.

    Raises:
      UserError: naming the field.
    """
    known = suite_config()
    _check_group(suite, known, "", origin)
    for group in ("clip_score", "knn", "few_shot"):
        _check_group(suite[group], known[group], f"{group}.", origin)
    for name, entry in suite.datasets.items():
        _check_group(entry, dataset(""), f"datasets.{name}.", origin)
    for name, members in suite.collections.items():
        if isinstance(members, str):
            raise UserError(f"{origin}: collections.{name}={members!r} wants a tuple of names, such as ({members!r},)")


def _check_group(group: ConfigDict, known: ConfigDict, path: str, origin: str) -> None:
    for name in group:
        if name not in known:
            near = did_you_mean(name, known)
            others = "" if near else f"; there are {', '.join(known)}"
            raise UserError(f"{origin}: {path}{name} is no field{near}{others}; remove it")
        if group[name] is None:
            raise UserError(f"{origin}: {path}{name}=None wants a value, such as {known[name]!r}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One dataset of a suite, checked but not opened; fields as `dataset` has them, with {root} filled in.

    `prompts_digest` is a hash of the class names and templates that `prompts` stands for, so that a file that changed
    is another evaluation; "" where they are the source's own.
    """

    name: str
    source: str
    tasks: tuple[str, ...]
    train: str = ""
    prompts: str = ""
    main_metric: str = ""
    fold_size: int = 0
    language: str = "en"
    image_key: str = ""
    caption_keys: str = ""
    prompts_digest: str = ""

    def settings(self, task: str, suite: ConfigDict) -> dict[str, Any]:
        """Everything that the outcome of a task depends on, besides the model."""
        settings: dict[str, Any] = {"source": self.source}
        settings |= {key: getattr(self, key) for key in ("image_key", "caption_keys") if getattr(self, key)}
        if TASKS[task].needs_train:
            settings["train"] = self.train
        if task == CLASSIFICATION:
            settings |= {"prompts": self.prompts, "prompts_digest": self.prompts_digest, "bootstrap": suite.bootstrap}
        if task == RETRIEVAL:
            settings["fold_size"] = self.fold_size
        if task in (RETRIEVAL, "clip_score") and suite.bootstrap:
            settings["bootstrap"] = suite.bootstrap
        if task in ("knn", "few_shot", "clip_score"):
            settings |= suite[task].to_dict()
        if task in ("linear_probe", "few_shot") or settings.get("bootstrap"):
            settings["seed"] = suite.seed
        return json.loads(json.dumps(settings))  # as it is read back: lists for tuples


def make_jobs(suite: ConfigDict) -> list[Job]:
    """The datasets of `collection`, in the suite's order.

    Raises:
      UserError: an unknown name of a collection, dataset, task or prompts, or a task without what it needs.
    """
    wanted = selected_datasets(suite)
    validate_choice("missing", suite.missing, ("error", "skip"))
    jobs = []
    for name, entry in suite.datasets.items():
        if name not in wanted:
            continue
        field = f"datasets.{name}"
        missing = [key for key in dataset("") if key not in entry]
        if missing:
            raise UserError(f"{field} has no field {missing[0]!r}; make it with mmjax.evaluation.suite.jobs.dataset")
        for task in entry.tasks:
            validate_choice(f"{field}.tasks", task, SUITE_TASKS)
            if TASKS[task].needs_train and not entry.train:
                raise UserError(f"{field}.train is empty, but {task} learns from a training split; name its source")
        named = entry.prompts or prompts.find(name) or prompts.KEEP_SOURCE
        digest = ""
        if named != prompts.KEEP_SOURCE:
            digest = prompts.load(named, dataset=name, field=f"{field}.prompts").digest()
        fill = lambda text: text.replace("{root}", suite.root.rstrip("/"))
        fields = {key: entry[key] for key in dataset("")}
        filled = {"source": fill(entry.source), "train": fill(entry.train), "prompts_digest": digest}
        jobs.append(Job(name=name, **fields | filled))
        if not jobs[-1].source:
            raise UserError(f"{field}.source is empty; name the data, e.g. wds:DIR or folder:DIR")
    return jobs


def selected_datasets(suite: ConfigDict) -> set[str]:
    """The names of the datasets that `collection` stands for; `all` is every one.

    Raises:
      UserError: an unknown name.
    """
    known = [*suite.collections, *suite.datasets, "all"]
    selected: set[str] = set()
    for name in filter(None, (part.strip() for part in suite.collection.split("+"))):
        if name not in known:
            raise UserError(
                f"collection={name!r} is no collection or dataset{did_you_mean(name, known)}; collections:"
                f" {', '.join(['all', *suite.collections])}; datasets: {', '.join(suite.datasets)}"
            )
        members: Sequence[str] = suite.collections.get(name, (name,))
        members = list(suite.datasets) if name == "all" else members
        for member in members:
            if member not in suite.datasets:
                raise UserError(
                    f"collections.{name} names {member!r}, which is no dataset{did_you_mean(member, suite.datasets)}"
                )
        selected |= set(members)
    if not selected:
        raise UserError(f"collection={suite.collection!r} names no dataset; choose one of: {', '.join(known)}")
    return selected


def collection_means(records: Sequence[dict[str, Any]], suite: ConfigDict) -> dict[str, tuple[float, int]]:
    """The mean of the main metrics over each collection of which every dataset is done: (mean, number of datasets)."""
    means_by_collection = {}
    for name, members in suite.collections.items():
        values = [main_metric_value(records, member, suite.datasets[member]) for member in members]
        if len(values) > 1 and all(value is not None for value in values):
            means_by_collection[name] = (sum(values) / len(values), len(values))
    return means_by_collection


def main_metric_value(records: Sequence[dict[str, Any]], name: str, entry: Any) -> float | None:
    """The main metric of a dataset's first task, or None where there is no such record."""
    for record in records:
        if record["dataset"] == name and record["task"] == entry.tasks[0]:
            metrics = record["metrics"]
            if entry.main_metric in ("", "mean_recall@1") and "image_retrieval_recall@1" in metrics:
                return (metrics["image_retrieval_recall@1"] + metrics["text_retrieval_recall@1"]) / 2
            return metrics.get(entry.main_metric or "acc1")
    return None
