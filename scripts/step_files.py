"""Counts the files of mmjax that run for two steps of CLIP on `pairs:`, and the modules that the training loop reaches.

  python scripts/step_files.py [--list]

A file counts when one of its functions runs; imports do not. Two stretches are counted: from the first batch that is
asked for to the end of the second step, and from the command line to the end of the run.
"""

import ast
import os
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PACKAGE = ROOT / "mmjax"


class FilesThatRun:
    """Files of mmjax in which a function begins, in any thread, while the context lasts."""

    def __enter__(self):
        self.names: set[str] = set()
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame, event, _):
        name = frame.f_code.co_filename
        if event != "call" or name in self.names or not name.startswith(f"{PACKAGE}{os.sep}"):
            return
        while frame is not None and "importlib" not in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is None:  # nothing is being imported
            self.names.add(name)

    def take(self) -> set[Path]:
        """The files until now; counting begins anew."""
        names, self.names = self.names, set()
        return {Path(name) for name in names}


def write_pairs(folder: Path) -> Path:
    """A TSV of 32 pictures with a caption each."""
    from PIL import Image

    lines = ["filepath\ttitle"]
    for i in range(32):
        Image.new("RGB", (40, 36), (8 * i, 255 - 8 * i, 128)).save(folder / f"{i}.jpg")
        lines.append(f"{i}.jpg\ta plain picture of shade {i}")
    path = folder / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_two_steps(folder: Path) -> tuple[set[Path], set[Path]]:
    """Trains two steps from the command line; returns the files of the steps, and of the whole."""
    import jax

    from mmjax.cli import main
    from mmjax.data.loading import batches
    from mmjax.training import hooks

    make_batches, evaluate = batches.train_batches, hooks.Evaluate.run
    parts: list[set[Path]] = []  # until the first batch is asked for; until the second step is over; the rest

    def first_batch(*args, **options):
        parts.append(running.take())
        jax.clear_caches()  # the step was traced when the run was opened; the files that it goes through are a step's
        return make_batches(*args, **options)

    def after_last_step(self, context):
        parts.append(running.take())
        return evaluate(self, context)

    flags = {
        "data.workers": 0,
        "data.train": f"pairs:{write_pairs(folder)}",
        "steps": 2,
        "batch_size": 8,
        "schedule.warmup": 1,
        "log.every": 1,
        "precision": "float32",
    }
    argv = ["train", "--config=clip:variant=tiny", f"--workdir={folder / 'run'}"]
    argv += [f"--config.{field}={value}" for field, value in flags.items()]
    with (
        FilesThatRun() as running,
        mock.patch.object(batches, "train_batches", first_batch),
        mock.patch.object(hooks.Evaluate, "run", after_last_step),
    ):
        status = main.main(argv)
    if status:
        raise SystemExit(status)
    parts.append(running.take())
    return parts[1], set.union(*parts)


def reached(module: str) -> set[str]:
    """Modules of mmjax that a module imports, directly or through others, wherever in a file."""

    def path_of(name: str) -> Path | None:
        base = ROOT / name.replace(".", "/")
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    seen, left = set(), [module]
    while left:
        name = left.pop()
        path = path_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmjax"):
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                left += [alias.name for alias in node.names if alias.name.startswith("mmjax")]
    return seen - {module}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        steps, whole_run = run_two_steps(Path(folder))
    lines = lambda files: sum(len(path.read_text().splitlines()) for path in files)
    if "--list" in sys.argv:
        for path in sorted(whole_run):
            print(f"{'step' if path in steps else '    '} {path.relative_to(ROOT)}")
    print(f"from the first batch to the end of the second step: {len(steps)} files, {lines(steps):,} lines")
    print(f"from the command line to the end: {len(whole_run)} files, {lines(whole_run):,} lines")
    print(f"mmjax.training.loop reaches {len(reached('mmjax.training.loop'))} modules by imports")
