"""Installs what is to be released as an index would give it, and runs it, on each interpreter that is named.

  python scripts/check_release.py DIST PYTHON [PYTHON ...]

DIST holds a wheel and an sdist, made by `make dist`. Each PYTHON gets an environment with the wheel and what that asks
for, the first one also an environment with the sdist; in both a tiny model is trained, evaluated and loaded away from
the checkout. Prints a line for each, with versions; the exit status is 1 where one fails.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# A model that trains in seconds, on embedded data.
TINY = [
    "--config=quickstart",
    "--config.steps=2",
    "--config.batch_size=8",
    "--config.schedule.warmup=1",
    *[
        f"--config.model.{tower}.{field}"
        for tower in ("image", "text")
        for field in ("width=32", "heads=2", "mlp_dim=64", "depth=1")
    ],
    "--config.data.train=digits",
    "--config.data.eval=digits/test",
    "--config.log.tensorboard=false",
]
LOADED = "import mmjax; print(*mmjax.load('run').encode_text(['a digit']).shape)"


def check(package: Path, interpreter: str, folder: Path) -> str:
    """What is installed and runs, in a line.

    Raises:
      subprocess.CalledProcessError: a command failed; its `stderr` says why.
      AssertionError: a command did not do what it should.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*words: str | Path) -> str:
        command = list(map(str, words))
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    run(interpreter, "-m", "venv", folder / "env")
    python, mmjax = folder / "env/bin/python", folder / "env/bin/mmjax"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", package)
    version = run(mmjax, "--version")
    run(mmjax, "train", "--workdir=run", *TINY)
    run(mmjax, "eval", "--workdir=run")
    (record,) = json.loads((folder / "run/eval/2.json").read_text())
    assert 0 <= record["metrics"]["acc1"] <= 1, record
    assert run(python, "-c", LOADED).split()[0] == "1"
    versions = run(python, "-c", "import sys, jax; print(f'Python {sys.version.split()[0]}, jax {jax.__version__}')")
    return f"{package.name}: {version}, {versions}: installed, trained, evaluated, loaded"


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        print("usage: python scripts/check_release.py DIST PYTHON [PYTHON ...]", file=sys.stderr)
        return 2
    dist, *interpreters = argv
    (wheel,), (sdist,) = (sorted(Path(dist).resolve().glob(ending)) for ending in ("*.whl", "*.tar.gz"))
    failed = False
    for package, interpreter in [*((wheel, name) for name in interpreters), (sdist, interpreters[0])]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(check(package, interpreter, Path(folder)), flush=True)
            except (subprocess.CalledProcessError, AssertionError) as error:
                print(
                    f"{package.name} on {interpreter} failed: {error}\n{getattr(error, 'stderr', '')}", file=sys.stderr
                )
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
