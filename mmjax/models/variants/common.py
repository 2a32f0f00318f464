"""Settings that the tables of sizes share: plain dicts, each of which a size may change field by field."""

from typing import Any


def layers(width: int, depth: int, heads: int, **changes: Any) -> dict[str, Any]:
    """Settings of the layers of a `Transformer`, without its width, which not every part has as a field."""
    settings = dict(
        depth=depth,
        heads=heads,
        mlp_dim=4 * width,
        activation="gelu",
        norm_eps=1e-5,
        dropout=0.0,
        drop_path=0.0,
        scan="auto",
        remat="auto",
        remat_keep=0,
    )
    return settings | changes


def vit(image_size: int, patch_size: int, width: int, depth: int, heads: int, **changes: Any) -> dict[str, Any]:
    """A vision transformer as Google's (arXiv:2010.11929): patches with bias, no norm before the first layer."""
    settings = dict(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        **layers(width, depth, heads, norm_eps=1e-6),
        class_token=True,
        patch_bias=True,
        pre_norm=False,
        crop_to_patches=False,
        patch_dropout=0.0,
    )
    return settings | changes
