"""Which parameters decay: presets of the libraries that recipes come from, and path regexes."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from mmjax.errors import UserError
from mmjax.parallel import partition
from mmjax.training import param_roles


def _open_clip(path: str, axes: int) -> bool:
    """Two axes or more in the original, which stacks no layers, and neither a bias nor of a norm (open_clip's main.py).

    Here biases of queries, keys and values have an axis of heads.
    """
    is_vector = path.rpartition("/")[2] in ("bias", "scale")
    return not is_vector and axes - param_roles.is_stacked(path) >= 2


# (path, number of axes) -> whether the parameter decays.
PRESETS: dict[str, Callable[[str, int], bool]] = {
    "matrices": lambda path, axes: param_roles.role(path) != "vector",
    "open_clip": _open_clip,
    # `.*/kernel$`, big_vision's default of `wd_mults`; what flax calls a kernel there is called one here.
    "big_vision": lambda path, axes: param_roles.role(path) == "matrix",
}


def _split(entries: Sequence[str]) -> list[str]:
    """The entries, with several presets in one, such as `matrices,big_vision`, by themselves; no path has a comma."""
    split = []
    for entry in entries:
        names = [name.strip() for name in entry.split(",")]
        split += names if all(name in PRESETS for name in names) else [entry]
    return split


def _check_pattern(entry: str, paths: Sequence[str]) -> None:
    """Checks an entry that is no preset.

    Raises:
      UserError: it is no regular expression, or matches none of the paths.
    """
    try:
        param_roles.check_pattern("optimizer.decay", entry, paths, list(PRESETS))
    except UserError as error:
        names = tuple(name.strip() for name in entry.split(","))
        if len(names) == 1:
            raise
        raise UserError(f'{error}; several entries are written "{names}"') from error


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
    for entry in _split(settings.decay):
        if entry in PRESETS:
            chosen = {path for path, axes in shapes.items() if PRESETS[entry](path, axes)}
            # The default may find nothing, as where norms alone are trained.
            if not chosen and settings.weight_decay and entry != "matrices":
                raise UserError(
                    f"optimizer.decay={entry!r} names none of the parameters that are trained, such as"
                    f" {next(iter(shapes))!r}; set optimizer.weight_decay=0, or name them by a path regex"
                )
        else:
            _check_pattern(entry, list(shapes))
            chosen = {path for path in shapes if param_roles.matches([entry], path)}
        decays |= chosen
    return partition.map_with_path(lambda path, _: path in decays, params)
