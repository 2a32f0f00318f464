"""Translation between named arrays of another library and our parameters, one parameter at a time."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.errors import UserError, did_you_mean
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors
from mmjax.models import make_model
from mmjax.parallel import partition

Shapes = Mapping[str, tuple[int, ...]]

# Buffers and constants that some files carry beside the parameters.
_NO_PARAMETERS = (
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "position_ids",
    "num_batches_tracked",
)


def param_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by path; nothing is computed.

    Args:
      settings: of a model that sees images, as `config.model` has them; of `TwoTower` where there is no `kind`.
    """
    return dict(_param_shapes(json.dumps(settings, sort_keys=True)))


@functools.lru_cache(maxsize=8)
def _param_shapes(json_settings: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    settings: dict[str, Any] = json.loads(json_settings)
    for field in ("max_logit_scale", "init", "modality_dropout"):  # of training
        settings.pop(field, None)
    model = make_model.make_model(settings, jnp.float32, {})
    side = settings["image"]["image_size"]
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    inputs: tuple[Any, ...] = images, jax.ShapeDtypeStruct((1, 1), jnp.int32)
    if "text" not in settings:  # a lone tower
        inputs = {"image": images}, jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    tree = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return tuple((partition.path_name(path), leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def select_rows(rows: Sequence[Row], shapes: Shapes, form: str) -> list[Row]:
    """The rows of a table that a model needs.

    Args:
      rows: a format's table.
      shapes: the model's parameters.
      form: what messages call the format.

    Raises:
      UserError: the format has no name for one of the parameters.
    """
    chosen = [one for row in rows for one in row.of_layers(shapes)]
    named = {path for row in chosen for path in row.ours}
    for path in shapes:
        if path not in named:
            raise UserError(f"{form} has no name for the parameter {path}; this model cannot be written in that format")
    return chosen


def _depth(row: Row, shapes: Shapes) -> int:
    return shapes[row.ours[0]][0] if row.stacked else 1


def _our_shapes(row: Row, shapes: Shapes) -> list[tuple[int, ...]]:
    """Shapes of a row's parameters, of one layer."""
    return [shapes[path][1:] if row.stacked else shapes[path] for path in row.ours]


def their_shapes(rows: Iterable[Row], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters in another format, in the order of `export_params`."""
    result = {}
    for row in rows:
        # Zeros without memory: reshapes and transposes of them are views.
        blank = [np.broadcast_to(np.float32(0), shape) for shape in _our_shapes(row, shapes)]
        theirs = [array.shape for array in row.layout.to_theirs(blank)]
        for layer in range(_depth(row, shapes)):
            result |= dict(zip(row.names(layer), theirs, strict=True))
    return result


def check_tensors(tensors: Tensors, rows: Sequence[Row], shapes: Shapes) -> None:
    """Checks a file's names and shapes against a model's, before anything is read.

    Raises:
      UserError: a parameter is missing, unknown or of another shape.
    """
    wanted = their_shapes(rows, shapes)
    for name, shape in wanted.items():
        if name not in tensors:
            missing = sum(other not in tensors for other in wanted)
            more = f" (and {missing - 1} more)" if missing > 1 else ""
            raise UserError(f"{tensors.path}: the parameter {name}{more} is missing{did_you_mean(name, tensors)}")
        stored = tensors[name]
        if stored != shape and not (np.prod(shape) == np.prod(stored) == 1 and len(stored) <= 1):  # scalars as [1]
            raise UserError(f"{tensors.path}: {name} has shape {list(stored)}, but its config makes it {list(shape)}")
    unknown = [name for name in tensors if name not in wanted and not name.endswith(_NO_PARAMETERS)]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"{tensors.path}: the parameter {unknown[0]}{more} is unknown to this kind of model;"
            " mmjax has no place for it"
        )


def read_params(
    tensors: Tensors,
    rows: Sequence[Row],
    shapes: Shapes,
    convert: Callable[[str, np.ndarray], Any],
    wanted: Callable[[str], bool] = lambda path: True,
) -> dict[str, Any]:
    """Reads parameters, one after the other: what is on the host at a time is one of them and a tensor of the file.

    Args:
      tensors: the file.
      rows: from `select_rows`.
      shapes: the model's.
      convert: (path, float32 array) -> what to keep, such as the array on its devices.
      wanted: which paths to read.

    Returns:
      What `convert` returned, by path.
    """
    result = {}
    for row in rows:
        if not any(map(wanted, row.ours)):
            continue
        single = _our_shapes(row, shapes)
        if not row.stacked:
            arrays = row.layout.to_ours([tensors.read(name) for name in row.theirs], single)
        else:
            arrays = [np.empty(shapes[path], np.float32) for path in row.ours]
            for layer in range(_depth(row, shapes)):
                parts = row.layout.to_ours([tensors.read(name) for name in row.names(layer)], single)
                for array, part in zip(arrays, parts, strict=True):
                    array[layer] = part
        for path, array in zip(row.ours, arrays, strict=True):
            if wanted(path):
                result[path] = convert(path, np.asarray(array, order="C"))
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslatedTensors:
    """Arrays of a file under our names.

    Attributes:
      tensors, rows, shapes: the arrays, the table's rows and our parameters' shapes.
    """

    tensors: Tensors
    rows: list[Row]
    shapes: dict[str, tuple[int, ...]]

    def read(
        self, convert: Callable[[str, np.ndarray], Any], wanted: Callable[[str], bool] = lambda path: True
    ) -> dict[str, Any]:
        """Reads parameters one by one; see `read_params`."""
        return read_params(self.tensors, self.rows, self.shapes, convert, wanted)


def export_params(params: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[tuple[str, np.ndarray]]:
    """Translates parameters to another format, one after the other.

    Args:
      params: our arrays by path.
      rows: from `select_rows`.

    Yields:
      Their names and contiguous float32 arrays, in the order of `their_shapes`.
    """
    for row in rows:
        arrays = [np.asarray(params[path], np.float32) for path in row.ours]
        for layer in range(len(arrays[0])) if row.stacked else [None]:
            parts = arrays if layer is None else [array[layer] for array in arrays]
            for name, array in zip(row.names(layer or 0), row.layout.to_theirs(parts), strict=True):
                yield name, np.asarray(array, order="C")
