"""Columns of metrics in tables: their order, headings and formats; tables as plain text."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmjax import registry
from mmjax.metrics.definitions import definition
from mmjax.metrics.robustness import split_key
from mmjax.models.slot_config import UNITS

_RATE = re.compile(r"(^|_)(acc\d?|accuracy|recall|exact_match)([@_]|$)")  # in the keys of metrics that lie in [0, 1]
_TERMINAL = 120  # columns of text
_FOLDS = re.compile(r"\d+x\d+_")  # begins the keys of `retrieval.fold_metrics` in an evaluation


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric as tables show it: its key, a heading (with the group it stands under), and how to print a value.

    A rate is printed in percent; so is a `total` of rates, which may exceed 1 and is printed without the sign.
    """

    key: str
    group: str
    heading: str
    rate: bool
    total: bool = False

    @property
    def definition(self) -> str:
        """What the metric is, in a line; "" where that is not known."""
        return definition(self.key)

    def text(self, value: float | None) -> str:
        if value is None:
            return "-"
        if self.total:
            return f"{100 * value:.1f}"
        return f"{100 * value:.2f}%" if self.rate else f"{value:.4g}"


def columns(metrics: Iterable[dict[str, float]]) -> list[Column]:
    """The columns for a table of these metrics, known ones first and in a fixed order, then the rest by name."""
    metrics = list(metrics)
    present = {key for row in metrics for key in row}
    known = [Column("acc1", "", "top-1", True), Column("acc5", "", "top-5", True)]
    known += [Column("mean_per_class_recall", "", "per-class recall", True), Column("macro_f1", "", "macro F1", True)]
    known += [Column("auroc", "", "AUROC", True), Column("mean_average_precision", "", "mAP", True)]
    seen = [name for name in UNITS if any(f"{name}_retrieval_" in key for key in present)]
    known += _retrieval_columns("", "", seen)
    for folds in sorted({match.group() for key in present if (match := _FOLDS.match(key))}):
        known += _retrieval_columns(folds, f", {folds.rstrip('_')}", seen)
    known += [Column("loss", "", "loss", False), Column("contrastive_loss", "", "contrastive loss", False)]
    known += _SPEECH + _CAPTIONING + _VQA + _MATCHING + _MASKING + _SYNCHRONIZATION + _SEPARATION
    known += _curve_columns(metrics, known)
    others = present - {column.key for column in known}
    shown = [column for column in known if column.key in present]
    return shown + [Column(key, "", key, bool(_RATE.search(key))) for key in sorted(others)]


def _curve_columns(metrics: Iterable[dict[str, float]], known: Sequence[Column]) -> list[Column]:
    """Columns of metrics on corrupted examples: the levels of a sweep in their order, then the area."""
    of_clean = {column.key: column for column in known}
    result = {}
    for key in (key for row in metrics for key in row):
        split = split_key(key)
        area, _, sweep = key.rpartition("@")
        metric = split[0] if split else area.removesuffix("_area")
        if metric not in of_clean or not (split or (area.endswith("_area") and ":" in sweep)):
            continue
        clean = of_clean[metric]
        name = " ".join(filter(None, [clean.group, clean.heading]))
        group = f"{name}, {(split[1] if split else sweep).replace(':', ' ')}"
        heading = ", ".join(f"{level:g}" for level in split[2]) if split else "area"
        result.setdefault(key, Column(key, group, heading, clean.rate))
    groups = dict.fromkeys(column.group for column in result.values())
    return [column for group in groups for column in result.values() if column.group == group]


def task_titles(tasks: Iterable[str]) -> dict[str, str]:
    """The titles of the tasks that occur, in the order of tables; those of nobody here come last, by name."""
    present, known = set(tasks), registry.evaluations
    return {task: known.load(task, where="task").title for task in known if task in present} | {
        task: task.replace("_", " ") for task in sorted(present - set(known))
    }


_NOUNS = {"audio": "sound"}  # of modalities that are called otherwise

_CAPTIONING = [
    Column("exact_match", "", "exactly right", True),
    Column("cider_d", "", "CIDEr-D", False),
    *(Column(f"bleu_{n}", "", f"BLEU-{n}", True) for n in range(1, 5)),
    Column("rouge_l", "", "ROUGE-L", True),
    Column("meteor", "", "METEOR", True),
    Column("perplexity", "", "perplexity", False),
]
_SPEECH = [
    Column("wer", "", "WER", True),
    Column("cer", "", "CER", True),
    *(Column(f"{kind}_rate", "", f"{kind}s", True) for kind in ("substitution", "deletion", "insertion")),
    Column("sentence_accuracy", "", "sentences right", True),
]
_SEPARATION = [
    Column("si_sdr", "", "SI-SDR, dB", False),
    Column("si_sdr_improvement", "", "SI-SDR gained", False),
    *(Column(key, "", f"{key.upper()}, dB", False) for key in ("sdr", "sir", "sar")),
    Column("sdr_improvement", "", "SDR gained", False),
]
_VQA = [
    Column("accuracy", "", "VQA accuracy", True),
    *(Column(f"accuracy_{kind}", "", kind, True) for kind in ("yes/no", "number", "other")),
]
_MATCHING = [
    Column(f"{kind}_{key}", group, heading, True)
    for kind, group in (("itm", "drawn by similarity"), ("itm_hardest", "the hardest"), ("itm_uniform", "any"))
    for key, heading in (
        ("accuracy", "accuracy"),
        ("accuracy_match", "matches"),
        ("accuracy_mismatch", "mismatches"),
        ("balanced_accuracy", "balanced"),
    )
]
_MASKING = [
    Column("mlm_accuracy", "", "words right", True),
    Column("mlm_loss", "", "words, loss", False),
    Column("mim_loss", "", "patches, loss", False),
]

_SYNCHRONIZATION = [
    Column(f"{prefix}offset_{key}", group, heading, rate)
    for prefix, group in (("", "offset"), ("chance_", "best constant answer"))
    for key, heading, rate in (
        ("accuracy", "within a frame", True),
        ("accuracy_exact", "exact", True),
        ("error", "error in frames", False),
    )
]


def _retrieval_columns(prefix: str, suffix: str, seen: Sequence[str]) -> list[Column]:
    """Both directions' columns; a prefix of the keys and a suffix of the groups tell folds apart.

    Args:
      prefix, suffix: of the folds.
      seen: modalities beside texts that are retrieved, usually one.
    """
    result = []
    nouns = [_NOUNS.get(name, name) for name in seen]
    sides = [(f"{name}_retrieval", f"text to {noun}") for name, noun in zip(seen, nouns, strict=True)]
    for side, group in (*sides, ("text_retrieval", f"{' or '.join(nouns)} to text")):
        result += [Column(f"{prefix}{side}_recall@{k}", group + suffix, f"R@{k}", True) for k in (1, 5, 10)]
        for kind, heading in (("median_rank", "MedR"), ("mean_rank", "MeanR")):
            result += [Column(f"{prefix}{side}_{kind}", group + suffix, heading, False)]
        for kind, heading in (("mean_reciprocal_rank", "MRR"), ("mean_average_precision", "mAP")):
            result += [Column(f"{prefix}{side}_{kind}", group + suffix, heading, True)]
        bounds = f"{group}, 95% interval{suffix}"
        for k in (1, 5, 10):
            for kind in ("low", "high"):
                result += [Column(f"{prefix}{side}_recall@{k}_{kind}95", bounds, f"R@{k} {kind}", True)]
    return [*result, Column(f"{prefix}rsum", suffix.removeprefix(", "), "rsum", False, total=True)]


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """A plain-text table of the records of `to_records`, one block per task; rates in percent."""
    models = {(record["model"], record["pretrained"]) for record in records}
    blocks = []
    for task, title in task_titles(record["task"] for record in records).items():
        rows = [record for record in records if record["task"] == task]
        names = [row["dataset"] for row in rows]
        if len(models) > 1:
            names = [f"{row['dataset']} ({row['model']} {row['pretrained']})" for row in rows]
        metrics = [row["metrics"] for row in rows]
        blocks += _table_blocks(title, names, metrics, columns(metrics))
    if len(models) == 1:
        blocks.insert(0, "{}  {}".format(*models.pop()).rstrip())
    return "\n\n".join(blocks)


def _table_blocks(title: str, names: list[str], metrics: list[dict[str, float]], shown: list[Column]) -> list[str]:
    """A table as text; one too wide for a terminal goes on below, cut between groups of columns."""
    first = max(len(text) for text in [title, *names])
    blocks = []
    for part in split_columns(shown, lambda column: _width(column, metrics) + 2, _TERMINAL - first):
        widths = [_width(column, metrics) for column in part]
        lines = []
        if any(column.group for column in part):
            lines.append(f"{'':{first}}{_group_line(part, widths)}".rstrip())
        header = "".join(f"  {column.heading:>{width}}" for column, width in zip(part, widths, strict=True))
        lines += [f"{title:{first}}{header}", "-" * (first + len(header))]
        for name, row in zip(names, metrics, strict=True):
            cells = (column.text(row.get(column.key)) for column in part)
            lines.append(
                f"{name:{first}}" + "".join(f"  {text:>{width}}" for text, width in zip(cells, widths, strict=True))
            )
        blocks.append("\n".join(lines))
    return blocks


def split_columns(shown: Sequence[Column], width: Callable[[Column], int], room: int) -> list[list[Column]]:
    """The columns of a table that goes on below where it is too wide; it is cut between groups of columns."""
    parts: list[list[Column]] = []
    for _, columns_of_group in itertools.groupby(shown, key=lambda column: column.group):
        group = list(columns_of_group)
        if parts and sum(map(width, parts[-1] + group)) <= room:
            parts[-1] += group
        else:
            parts.append(group)
    return parts


def _width(column: Column, metrics: list[dict[str, float]]) -> int:
    return max(len(column.heading), *(len(column.text(row.get(column.key))) for row in metrics))


def _group_line(shown: list[Column], widths: list[int]) -> str:
    """The groups' names over their columns."""
    line = ""
    for group, part in itertools.groupby(zip(shown, widths, strict=True), key=lambda pair: pair[0].group):
        spaced = [width + 2 for _, width in part]
        label = f" {group} ".center(sum(spaced) - 2, "-") if group else ""
        line += f"  {label:{sum(spaced) - 2}}"
    return line
