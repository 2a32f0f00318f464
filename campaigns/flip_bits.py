"""Single flipped bits anywhere under a checkpoint: each is noticed, or what is restored is what was saved.

python -m campaigns.flip_bits --count=200 --seed=0
"""

import collections
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from campaigns import command
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.training import checkpoint
from mmjax.training.config import CheckpointConfig

STEP = 7
SETTINGS = CheckpointConfig(keep=3, keep_best=1, best_metric="acc")


def make_state(seed: int) -> dict[str, Any]:
    """A state with arrays of the kinds that training has."""
    rng = np.random.default_rng(seed)
    params = {f"layer{i}": {"kernel": jnp.asarray(rng.standard_normal((48, 64), np.float32))} for i in range(4)}
    moments = jax.tree.map(lambda x: (x / 2).astype(jnp.bfloat16), params)
    return {"step": jnp.int32(STEP), "params": params | {"logit_scale": jnp.float32(2.5)}, "opt_state": (moments, {})}


def save(folder: Path, state: Any) -> None:
    """Saves a checkpoint as a run does."""
    config = base_config("tiny")
    config.data.train, config.objectives.itc = "shapes", 1.0
    meta = checkpoint.make_meta(parse(config), 96, None, None, bad_examples={}, evaluated=True)
    checkpoints = checkpoint.Checkpoints(folder, SETTINGS)
    checkpoints.save(STEP, state, meta, {"acc": 0.5})
    checkpoints.close()


def flip(folder: Path, rng: random.Random) -> str:
    """Flips a bit under a folder; every second time each file is as likely, else each byte. Returns which."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    weights = None if rng.random() < 0.5 else [path.stat().st_size for path in files]
    (path,) = rng.choices(files, weights)
    content = bytearray(path.read_bytes())
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.relative_to(folder)}, byte {position}, bit {bit}"


def read(folder: Path, abstract: Any) -> tuple[Any, Any]:
    """What training restores of the latest checkpoint: its state and its meta."""
    checkpoints = checkpoint.Checkpoints(folder, SETTINGS)
    try:
        return checkpoints.restore(STEP, abstract), checkpoints.read_meta(STEP)
    finally:
        checkpoints.close()


def run(count: int, seed: int) -> collections.Counter[str]:
    """Flips `count` bits, one at a time; counts those that were `noticed`, `harmless`, and others by what happened."""
    rng, result = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="mmjax-flips-") as temporary:
        original, flipped = Path(temporary) / "original", Path(temporary) / "flipped"
        state = make_state(seed)
        save(original, state)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        expected = read(original, abstract)
        for _ in range(count):
            shutil.copytree(original, flipped)
            where = flip(flipped, rng)
            try:
                restored, meta = read(flipped, abstract)
                same = meta == expected[1] and all(
                    np.asarray(a).tobytes() == np.asarray(b).tobytes()
                    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True)
                )
                result["harmless" if same else f"WRONG NUMBERS: {where}"] += 1
            except checkpoint.DamagedCheckpoint as error:
                result["noticed" if "\n" not in str(error) else f"SEVERAL LINES: {where}: {error}"] += 1
            except Exception as error:
                result[f"{type(error).__name__}: {where}: {error}"] += 1
            shutil.rmtree(flipped)
    return result


def main() -> int:
    options = command.make_parser(__doc__, count=200).parse_args()
    return command.show(run(options.count, options.seed), {"noticed", "harmless"}.__contains__)


if __name__ == "__main__":
    sys.exit(main())
