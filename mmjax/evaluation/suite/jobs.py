"""Jobs of an evaluation suite: its chosen datasets with their sources, prompts and tasks; means over collections."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax import registry
from mmjax.config import dataset, serialize, suite_config
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation import evaluation_task, prompts, task_choice
from mmjax.evaluation.config import DatasetConfig, SuiteConfig

__all__ = [
    "Job",
    "collection_means",
    "dataset",  # suites that were written for mmjax 0.1 import the two from here
    "main_metric_value",
    "make_jobs",
    "selected_datasets",
    "suite_config",
]

MEAN_RECALL = "mean_recall@1"
_RECALL = re.compile(r"[a-z]+_retrieval_recall@1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(DatasetConfig):
    """One dataset of a suite, checked but not opened, with {root} filled in.

    Attributes:
      name: of the dataset.
      prompts_digest: a hash of the class names and templates that `prompts` stands for, so that a file that changed is
        another evaluation; "" where they are the source's own.
    """

    name: str
    prompts_digest: str = ""

    def settings(self, task: str, suite: SuiteConfig, config: RunConfig) -> dict[str, Any]:
        """Everything that the outcome of a task depends on, besides the model's weights.

        Args:
          task: what is evaluated.
          suite: the suite.
          config: the model's.
        """
        info, run = evaluation_task.load(task), to_dict(config)
        settings: dict[str, Any] = {"source": self.source}
        settings |= {
            key: getattr(self, key) for key in ("image_key", "caption_keys", "label_key") if getattr(self, key)
        }
        if info.needs_train:
            settings["train"] = self.train
        if "prompts" in info.reads:
            settings |= {"prompts": self.prompts, "prompts_digest": self.prompts_digest, "bootstrap": suite.bootstrap}
        if "fold_size" in info.reads:
            settings["fold_size"] = self.fold_size
        if "bootstrap" in info.reads and suite.bootstrap:
            settings["bootstrap"] = suite.bootstrap
        for group in ("knn", "few_shot", "clip_score", "source_separation"):
            settings |= to_dict(getattr(suite, group)) if group in info.reads else {}
        if info.takes_views:  # one is what there always was
            views = serialize.flatten({"video": to_dict(suite.video), "audio": to_dict(suite.audio)})
            settings |= {field: count for field, count in views.items() if count != 1}
        if info.curves and suite.corrupt:
            settings["corrupt"] = suite.corrupt
        if "seed" in info.reads or settings.get("bootstrap"):
            settings["seed"] = suite.seed
        fields = suite.added.get(task)
        settings |= {} if fields is None else {"fields": to_dict(fields)}
        # Of the run: a field by its path, or all of a group.
        flat = serialize.flatten(run)
        for path in info.reads_of_run:
            settings |= {name: value for name, value in flat.items() if name == path or name.startswith(f"{path}.")}
        return json.loads(json.dumps(settings))  # as it is read back: lists for tuples


def make_jobs(suite: SuiteConfig) -> list[Job]:
    """The datasets of `collection`, in the suite's order.

    Raises:
      UserError: an unknown name of a collection, dataset, task or prompts, a task without what it needs, a number
        that is too small, or corruptions that are none.
    """
    task_choice.check_numbers(suite)
    wanted = selected_datasets(suite)
    jobs = []
    for name, entry in suite.datasets.items():
        if name not in wanted:
            continue
        field = f"datasets.{name}"
        if not entry.tasks:
            raise UserError(f"{field}.tasks is empty; name some of: {', '.join(registry.evaluations)}")
        for task in entry.tasks:
            info = evaluation_task.load(task, f"{field}.tasks")
            if info.needs_train and not entry.train:
                raise UserError(f"{field}.train is empty, but {task} learns from a training split; name its source")
        named = entry.prompts or prompts.find(name) or prompts.KEEP_SOURCE
        digest = ""
        if named != prompts.KEEP_SOURCE:
            digest = prompts.load(named, dataset=name, field=f"{field}.prompts").digest()
        fill = lambda text: text.replace("{root}", suite.root.rstrip("/"))
        filled = {"source": fill(entry.source), "train": fill(entry.train)}
        jobs.append(Job(name=name, prompts_digest=digest, **vars(entry) | filled))
        if not jobs[-1].source:
            raise UserError(f"{field}.source is empty; name the data, e.g. wds:DIR or folder:DIR")
    return jobs


def selected_datasets(suite: SuiteConfig) -> set[str]:
    """The names of the datasets that `collection` stands for; `all` is every one.

    Raises:
      UserError: an unknown name.
    """
    for name, members in suite.collections.items():
        for member in members:
            if member not in suite.datasets:
                raise UserError(
                    f"collections.{name} names {member!r}, which is no dataset{did_you_mean(member, suite.datasets)}"
                )
    known = [*suite.collections, *suite.datasets, "all"]
    selected: set[str] = set()
    for name in filter(None, (part.strip() for part in suite.collection.split("+"))):
        if name not in known:
            raise UserError(
                f"collection={name!r} is no collection or dataset{did_you_mean(name, known)}; collections:"
                f" {', '.join(['all', *suite.collections])}; datasets: {', '.join(suite.datasets)}"
            )
        selected |= set(suite.datasets if name == "all" else suite.collections.get(name, (name,)))
    if not selected:
        raise UserError(f"collection={suite.collection!r} names no dataset; choose one of: {', '.join(known)}")
    return selected


def collection_means(records: Sequence[dict[str, Any]], suite: SuiteConfig) -> dict[str, tuple[float, int]]:
    """The mean of the main metrics over each collection of which every dataset is done: (mean, number of datasets)."""
    means_by_collection = {}
    for name, members in suite.collections.items():
        metrics = (main_metric_value(records, member, suite.datasets[member]) for member in members)
        values = [value for value in metrics if value is not None]
        if len(values) > 1 and len(values) == len(members):
            means_by_collection[name] = (sum(values) / len(values), len(values))
    return means_by_collection


def mean_recall(metrics: Mapping[str, float]) -> float:
    """The mean of recall at 1 over both directions: texts, and images or whatever the model sees in their place."""
    sides = [value for name, value in metrics.items() if _RECALL.fullmatch(name)]
    return sum(sides) / len(sides)


def main_metric_value(records: Sequence[dict[str, Any]], name: str, entry: DatasetConfig) -> float | None:
    """The main metric of a dataset's first task, or None where there is no such record."""
    for record in records:
        if record["dataset"] == name and record["task"] == entry.tasks[0]:
            metrics = record["metrics"]
            if entry.main_metric in ("", MEAN_RECALL) and "text_retrieval_recall@1" in metrics:
                return mean_recall(metrics)
            return metrics.get(entry.main_metric or "acc1")
    return None
