"""Which parameters decay: presets of the libraries that recipes come from, and path regexes."""

from collections.abc import Callable
from typing import Any

import ml_collections

from mmjax.errors import UserError
from mmjax.parallel import partition
from mmjax.training import roles


def _open_clip(path: str, axes: int) -> bool:
    """Two axes or more in the original, which stacks no layers, and neither a bias nor of a norm (open_clip's main.py).

    Here biases of queries, keys and values have an axis of heads.
    """
    is_vector = path.rpartition("/")[2] in ("bias", "scale")
    return not is_vector and axes - roles.is_stacked(path) >= 2


# (path, number of axes) -> whether the parameter decays.
PRESETS: dict[str, Callable[[str, int], bool]] = {
    "matrices": lambda path, axes: roles.role(path) != "vector",
    "open_clip": _open_clip,
    # `.*/kernel$`, big_vision's default of `wd_mults`; what flax calls a kernel there is called one here.
    "big_vision": lambda path, axes: roles.role(path) == "matrix",
}


def mask(settings: ml_collections.ConfigDict, params: Any) -> Any:
    """Whether each parameter decays, as a tree of bools.

    Args:
      settings: `config.optimizer`.
      params: the trainable parameters (arrays or shapes), None where frozen.

    Raises:
      UserError: an entry of `decay` is neither a preset nor a regular expression that matches a trained parameter.
    """
    shapes = {}
    partition.map_with_path(lambda path, x: shapes.setdefault(path, len(x.shape)), params)
    decays = set()
    for entry in settings.decay:
        if entry in PRESETS:
            chosen = {path for path, axes in shapes.items() if PRESETS[entry](path, axes)}
            # The default may find nothing, as where norms alone are trained.
            if not chosen and settings.weight_decay and entry != "matrices":
                raise UserError(
                    f"optimizer.decay={entry!r} names none of the parameters that are trained, such as"
                    f" {next(iter(shapes))!r}; set optimizer.weight_decay=0, or name them by a path regex"
                )
        else:
            roles.check_pattern("optimizer.decay", entry, list(shapes), list(PRESETS))
            chosen = {path for path in shapes if roles.matches([entry], path)}
        decays |= chosen
    return partition.map_with_path(lambda path, _: path in decays, params)
