"""Publication of a model: weights in another library's format, with a model card, in a folder or on the Hub."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError, validate_choice
from mmjax.evaluation.suite import results_file
from mmjax.inference import checkpoint_source
from mmjax.inference.convert import show_files, write_files
from mmjax.inference.model_card import make_card
from mmjax.interop.weights_path import HUB
from mmjax.io import paths
from mmjax.training import metrics_log
from mmjax.utils import terminal

FORMATS = ("hf", "openclip")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    src: Any,
    dst: str,
    *,
    to: str = "openclip",
    license: str | None = None,
    private: bool = False,
    step: int | None = None,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as `convert` does, and a model card beside it.

    Args:
      src, step, tokenizer, settings: see `convert`.
      dst: `hf-hub:OWNER/NAME`, made where it is missing; or a folder that is missing or empty, without any network.
      to: one of `FORMATS`.
      license: the Hub's name of it, such as `apache-2.0`; None leaves it out of the card.
      private: whether a repository that is made is.

    Raises:
      UserError: as of `convert`; a name or licence that is none, or the Hub refuses.
    """
    validate_choice("--to", to, FORMATS)
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"--license={license}: give the Hub's name of a licence, such as apache-2.0, mit or other")
    name = dst.removeprefix(HUB)
    if dst.startswith(HUB) and not _REPOSITORY.fullmatch(name):
        raise UserError(f"DST={dst}: give hf-hub:OWNER/NAME")
    if not dst.startswith(HUB) and private:
        raise UserError(f"--private is of repositories, and DST={dst} is a folder; leave it out")
    options: dict[str, Any] = dict(step=step, tokenizer=tokenizer, settings=settings)
    if not dst.startswith(HUB):
        with paths.new_folder(dst, "DST") as folder:
            notes = _write(src, folder, to, paths.as_path(dst).name, license, options, is_on_hub=False)
        show_files(dst, notes)
        return
    api = _hub(dst)
    with tempfile.TemporaryDirectory(prefix="mmjax-push-") as folder:
        with _hub_errors(dst):
            api.create_repo(name, private=private, exist_ok=True)  # before anything long is written
        notes = _write(src, Path(folder), to, name, license, options, is_on_hub=True)
        with _hub_errors(dst):
            address = api.upload_folder(repo_id=name, folder_path=folder)
    for note in notes:
        terminal.show(f"note: {note}")
    terminal.show(f"{dst}: {address}")


@contextlib.contextmanager
def _hub_errors(dst: str) -> Iterator[None]:
    """Raises what the Hub's package raises as one line."""
    try:
        yield
    except Exception as error:  # its own, the network's and the operating system's
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"DST={dst}: the Hub did not take it ({type(error).__name__}: {reason}); log in with `hf auth login`, or"
            " give a folder, which needs no network"
        ) from error


def _hub(dst: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"DST={dst}: needs the package huggingface_hub; pip install huggingface_hub") from error
    return huggingface_hub.HfApi()


def _write(
    src: Any, folder: Path, to: str, name: str, license: str | None, options: dict[str, Any], *, is_on_hub: bool
) -> list[str]:
    """Writes the files and the card; returns notes, a line each."""
    opened = checkpoint_source.open_source(src, **options)
    notes = write_files(opened, folder, to)
    card = make_card(opened, _records(opened), name=name, form=to, license=license, is_on_hub=is_on_hub)
    (folder / "README.md").write_text(card)
    return notes + ([] if license else ["the card has no licence; --license=apache-2.0, say, puts one there"])


def _records(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> list[dict[str, Any]]:
    """Evaluations of a run's checkpoint: those of `mmjax eval`, else those of its training at this step."""
    if not isinstance(opened, checkpoint_source.RunCheckpoint):
        return []
    records = results_file.read(opened.path / "eval" / f"{opened.step}.json")
    if records:
        return records
    by_data: dict[str, dict[str, float]] = {}
    for line in metrics_log.MetricsFile(opened.path / "metrics.jsonl").lines():
        if line.get("kind") == "eval" and line.get("step") == opened.step:
            for key, value in line.items():
                data, slash, metric = key.rpartition("/")
                if slash and isinstance(value, (int, float)):
                    by_data.setdefault(data, {})[metric] = float(value)
    return [{"dataset": data, "task": "evaluation", "metrics": metrics} for data, metrics in by_data.items()]
