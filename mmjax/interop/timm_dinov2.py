"""DINOv2 (arXiv:2304.07193), with registers (arXiv:2309.16588) and without, as timm registers it for OpenCLIP.

timm makes every one of them for 518 pixels, whatever OpenCLIP's config says. So a model of another size is written with
the table of 37 x 37 positions that has the least norm of all those which timm's resampling turns into the model's:
`open_clip.create_model(..., force_image_size=224)` then computes what is computed here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.interop.param_layouts import Arrays, Layout
from mmjax.interop.param_names import openclip as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors
from mmjax.nn.config import block_config
from mmjax.nn.positions import bicubic_matrix

KIND = "timm_dinov2"
PIXELS, _PATCH, _REGISTERS = 518, 14, 4
_SIDE = PIXELS // _PATCH
_TRUNK = "visual.trunk."
_SIZES = {  # width, depth, heads, hidden units of the MLP and whether it is gated
    "small": (384, 12, 6, 1536, False),
    "base": (768, 12, 12, 3072, False),
    "large": (1024, 24, 16, 4096, False),
    "giant": (1536, 40, 24, 4096, True),
}


def _tower(width: int, depth: int, heads: int, mlp_dim: int, gated: bool, registers: int) -> dict[str, Any]:
    settings: dict[str, Any] = dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim, registers=registers)
    settings |= dict(image_size=PIXELS, patch_size=_PATCH, patch_bias=True, pre_norm=False, class_token=True)
    settings |= dict(pool="cls", projection="none", activation="silu" if gated else "gelu", norm_eps=1e-6)
    return settings | dict(block=dict(layer_scale=1e-5, mlp_gate=gated))


# By timm's name, with the size of images that timm makes them for and without a projection.
TOWERS = {
    f"vit_{size}_patch{_PATCH}{f'_reg{registers}' if registers else ''}_dinov2": _tower(*sizes, registers)
    for registers in (0, _REGISTERS)
    for size, sizes in _SIZES.items()
}
_PROJECTIONS = {None: "bias", "": "bias", "linear": "linear", "none": "none"}


def from_config(vision: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """The settings that a `vision_cfg` is free in: the size of images, and the projection.

    Raises:
      UserError: no such model is read.
    """
    projection = vision.get("timm_proj", "linear")  # as OpenCLIP has it
    if projection not in _PROJECTIONS:
        raise UserError(f"{path}: vision_cfg.timm_proj={projection!r} is not read; mmjax has linear, none and null")
    size = vision.get("image_size", PIXELS)
    check_size(size, f"{path}: vision_cfg.image_size")
    return dict(image_size=size, projection=_PROJECTIONS[projection])


def check_size(size: Any, field: str) -> None:
    """Checks that the positions for images of a size can be had from those for 518 pixels.

    Raises:
      UserError: they cannot.
    """
    if type(size) is not int or size % _PATCH or not 0 < size <= PIXELS:
        raise UserError(f"{field}={size!r}: timm's DINOv2 wants a multiple of {_PATCH} up to {PIXELS}")


def without_free(theirs: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of timm's tower, where ours may be others without being another tower: as ours are."""
    block = theirs["block"] | {"layer_scale": ours["block"]["layer_scale"]}  # which training starts at
    return theirs | dict(image_size=ours["image_size"], projection=ours["projection"], block=block)


def projection_of_tensors(tensors: Tensors) -> str:
    """The projection that a file has."""
    if "visual.head.proj.weight" in tensors:
        return "linear"
    return "bias" if f"{_TRUNK}head.weight" in tensors else "none"


def notes(image: Mapping[str, Any]) -> list[str]:
    """A line on how OpenCLIP makes a model of another size than timm's."""
    size = image["image_size"]
    if size == PIXELS:
        return []
    return [f"open_clip makes DINOv2 for {PIXELS} pixels; load it by create_model(..., force_image_size={size})"]


# -- names -------------------------------------------------------------------------------------------------------------


def rows(image: Mapping[str, Any], tensors: Tensors | None) -> list[Row]:
    """The table of names.

    Args:
      image: settings of `model.image`.
      tensors: the file that is read; None for one that is written.
    """
    side, registers = image["image_size"] // _PATCH, bool(image.get("registers"))
    stored = tensors.get(f"{_TRUNK}pos_embed", ()) if tensors is not None else ()
    # A model that OpenCLIP trained at this size has the positions for it.
    is_resampled = len(stored) != 3 or stored[1] != side * side + (not registers)
    layout = _positions(side, _SIDE if is_resampled else side, registers)
    theirs, ours = ("pos_embed",), ("image/position_embedding",)
    if registers:
        theirs, ours = ("cls_token", *theirs), ("image/class_token", *ours)
    row = Row(tuple(_TRUNK + name for name in theirs), ours, layout)
    return names.timm_dinov2(row, image["projection"], is_gated=block_config(image.get("block")).mlp_gate)


def _positions(side: int, stored: int, registers: bool) -> Layout:
    """[1, 1 + S S, D] <-> [1 + s s, D]: positions of a class token and of a grid, which is resampled.

    With registers [1, 1, D] and [1, S S, D] <-> [D] and [1 + s s, D]: there the class token has no position.

    Args:
      side: s, rows and columns of the model's grid.
      stored: S, of the file's.
      registers: whether the tower has registers.
    """
    down = bicubic_matrix(stored, side, antialias=True)

    def resampled(matrix: np.ndarray, table: np.ndarray) -> np.ndarray:
        if side == stored:
            return table
        grid = table.astype(np.float64).reshape(matrix.shape[1], matrix.shape[1], -1)
        grid = np.tensordot(matrix, np.tensordot(matrix, grid, (1, 0)), (1, 1))  # symmetric: columns, then rows
        return grid.transpose(1, 0, 2).reshape(-1, table.shape[1]).astype(np.float32)

    def to_ours(xs: Arrays, shapes: Any) -> Arrays:
        del shapes
        table = xs[-1][0]
        if registers:
            return [xs[0][0, 0], np.concatenate([np.zeros_like(table[:1]), resampled(down, table)])]
        return [np.concatenate([table[:1], resampled(down, table[1:])])]

    def to_theirs(xs: Arrays) -> Arrays:
        first, grid = xs[-1][:1], resampled(np.linalg.pinv(down), xs[-1][1:])
        if registers:
            return [(xs[0] + first)[None], grid[None]]
        return [np.concatenate([first, grid])[None]]

    return Layout(to_ours, to_theirs)
