"""Runs what code blocks of the docs say, in the working folder; `tests/test_docs_blocks.py` lays out what they name.

  python run_doc_blocks.py BLOCKS.json RESULTS.json

BLOCKS is a list of {name, text} (Python) and {name, argv} (a command of mmjax); RESULTS maps names to what went wrong.
"""

import contextlib
import importlib
import io
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

import mmjax
from mmjax.cli import main
from mmjax.config import suite_recipe
from mmjax.data import mixture
from mmjax.data.sources import sensors, shapes

# Toy sizes of what is evaluated.
shapes.TEST_LENGTH = sensors.TEST_LENGTH = 64
TEXTS = ["a small red ring", "a large blue cross above a small green square", "a large white circle"]


def setting():
    """Names that blocks use without making them."""
    pictures = [Image.open(f"photos/{number}.jpg") for number in range(3)]
    rng = np.random.default_rng(0)
    return dict(
        np=np,
        mmjax=mmjax,
        pictures=pictures,
        captions=TEXTS,
        series=rng.normal(size=(3, 32, 4)).astype(np.float32),
        table=np.concatenate([rng.normal(size=(3, 4)), rng.integers(0, 4, (3, 2))], axis=1).astype(np.float32),
    )


def run_python(text):
    """Runs a block: as the module that its first line names, or else by itself; then what it made is used."""
    if path := re.match(r"# (\w+/\w+\.py)\n", text):
        Path(path[1]).parent.mkdir(exist_ok=True)
        Path(path[1]).write_text(text)
        importlib.invalidate_caches()
        names = vars(importlib.import_module(path[1].removesuffix(".py").replace("/", ".")))
        module = names["__name__"]
    else:
        module, names = "", setting()
        exec(compile(text, "block", "exec"), names)
    if registered := re.search(r'sources\.register\("(\w+)"', text):
        assert mixture.open_source(f"{registered[1]}:photos")[1]["image"]
    if registered := re.search(r'evaluations\.register\("(\w+)"', text):
        flags = [f"--plugins={module}", f"--config.eval.tasks=('{registered[1]}',)", "--config.data.eval=digits/test"]
        run_command(["eval", "--workdir=runs/clip", *flags, "--output=evaluated.json"])
        (record,) = json.loads(Path("evaluated.json").read_text())
        assert np.isfinite(record["metrics"][registered[1]])
    if "get_config" in names:
        suite_recipe.parse_suite(names["get_config"]())


def run_command(argv):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main.main(argv)
    assert status == 0, f"mmjax {' '.join(argv)}: exit status {status}\n{output.getvalue()}"


def run_all(blocks):
    results = {}
    # What registers stays for the others, so it comes last.
    for block in sorted(blocks, key=lambda block: ".register(" in block.get("text", "")):
        start = time.monotonic()
        try:
            if "argv" in block:
                run_command(block["argv"])
            else:
                run_python(block["text"])
        except Exception:
            results[block["name"]] = traceback.format_exc()
        print(f"{time.monotonic() - start:6.1f} s  {block['name']}", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    Path(sys.argv[2]).write_text(json.dumps(run_all(json.loads(Path(sys.argv[1]).read_text()))))
