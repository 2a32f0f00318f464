"""Names of timm's plain vision transformers as image towers."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names import openclip
from mmjax.interop.param_names.rows import Row, rows, torch_pair

_TRUNK = "visual.trunk."


def table(ours: str, *, is_gated: bool, has_positions_of_patches: bool) -> list[Row]:
    """A `VisionTransformer` with its classifier.

    Args:
      ours: what our names of the tower begin with.
      is_gated: of the giant DINOv2, whose gate and what it is for are one map.
      has_positions_of_patches: the class token has no position (DINOv2 with registers).
    """
    gated = rows(
        "blocks.{i}.mlp.",
        f"{ours}transformer/layers/mlp/",
        ("fc1.weight", "gate/kernel fc1/kernel", param_layouts.HALVES),
        ("fc1.bias", "gate/bias fc1/bias", param_layouts.HALVES_BIAS),
    )
    # In OpenCLIP's files the same tower lies under another name.
    tower = [
        Row(
            tuple(name.removeprefix(_TRUNK) for name in row.theirs),
            tuple(name.replace("image/", ours, 1) for name in row.ours),
            param_layouts.PATCH_POSITIONS if has_positions_of_patches and "pos_embed" in row.theirs[0] else row.layout,
        )
        for row in openclip.TIMM_SIGLIP
        if row.ours[0].startswith("image/") and not (is_gated and ".mlp.fc1." in row.theirs[0])
    ]
    registers = rows("", ours, ("reg_token", "register_tokens", param_layouts.BATCH_OF_ONE))
    return [*tower, *registers, *(gated if is_gated else []), *rows("", "", *torch_pair("head", "head"))]
