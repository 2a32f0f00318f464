"""The SigLIP image towers that timm registers, which OpenCLIP takes by name: `vit_{size}_patch{P}_siglip_{pixels}`."""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import timm_towers

_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)")
_SIZES = {  # width, depth, heads, mlp_dim
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_EPS = 1e-6
# Activation by pixels: timm's towers of the first SigLIP have the exact GELU, those that came with SigLIP 2 the other.
_EXACT, _TANH = "gelu", "gelu_tanh"
_TOWERS = {
    ("base", 32): {256: _TANH},
    ("base", 16): {224: _EXACT, 256: _EXACT, 384: _EXACT, 512: _EXACT},
    ("large", 16): {256: _EXACT, 384: _EXACT, 512: _TANH},
    ("so400m", 14): {224: _EXACT, 378: _EXACT, 384: _EXACT},
    ("so400m", 16): {256: _TANH, 384: _TANH, 512: _TANH},
    ("giantopt", 16): {256: _TANH, 384: _TANH},
}


def tower_settings(name: str, path: Any) -> dict[str, Any]:
    """An image tower's settings by timm's name.

    Raises:
      UserError: timm registers no such SigLIP tower.
    """
    match = _NAME.fullmatch(name.partition(".")[0])
    size, patch, pixels = (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)
    activation = _TOWERS.get((size, patch), {}).get(pixels)
    if activation is None:
        raise timm_towers.unknown(name, path)
    width, depth, heads, mlp_dim = _SIZES[size]
    settings = dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim, activation=activation, norm_eps=_EPS)
    return settings | dict(patch_size=patch, image_size=pixels)


def activation(width: int, mlp_dim: int, patch: int, side: int) -> str | None:
    """Activation of the towers with `side` x `side` patches; None where timm has none, or several that differ."""
    sizes = [size for size, (w, _, _, m) in _SIZES.items() if (w, m) == (width, mlp_dim)]
    kinds = {
        kind for size in sizes for pixels, kind in _TOWERS.get((size, patch), {}).items() if pixels // patch == side
    }
    return kinds.pop() if len(kinds) == 1 else None


def timm_name(image: Mapping[str, Any]) -> str:
    """timm's name of an image tower.

    Raises:
      UserError: timm registers no such tower.
    """
    patch, pixels = image["patch_size"], image["image_size"]
    for size, dims in _SIZES.items():
        if dims == tuple(image[field] for field in ("width", "depth", "heads", "mlp_dim")):
            kind = _TOWERS.get((size, patch), {}).get(pixels)
            if kind is not None and (image["activation"], image["norm_eps"]) == (kind, _EPS):
                return f"vit_{size}_patch{patch}_siglip_{pixels}"
    fields = ("width", "depth", "patch_size", "image_size", "activation")
    tower = ", ".join(f"{field}={image[field]}" for field in fields)
    raise UserError(
        f"model.image with {tower}: OpenCLIP takes SigLIP's image towers from timm, by name, and none is like this;"
        " write it with --to=hf"
    )
