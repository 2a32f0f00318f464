"""Names of convolutional towers' parameters: OpenAI's modified ResNets, and ConvNeXt of timm."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair
from mmjax.models.image_config import CONV_STAGES

Triple = tuple[str, str, param_layouts.Layout]


def _convolution(theirs: str, ours: str) -> list[Triple]:
    return [
        (f"{theirs}.weight", f"{ours}/kernel", param_layouts.CONVOLUTION),
        (f"{theirs}.bias", f"{ours}/bias", param_layouts.COPY),
    ]


def _normed(their_conv: str, their_norm: str, name: str) -> list[Triple]:
    """A convolution without bias, and its batch norm."""
    statistics = ("running_mean", "running_var")
    return [
        (f"{their_conv}.weight", f"conv{name}/kernel", param_layouts.CONVOLUTION),
        *torch_norm(their_norm, f"norm{name}"),
        *((f"{their_norm}.{part}", f"norm{name}/{part}", param_layouts.COPY) for part in statistics),
    ]


def _resnet() -> list[Row]:
    table = rows("visual.", "image/", *(row for n in "123" for row in _normed(f"conv{n}", f"bn{n}", f"_stem{n}")))
    block = [row for n in "123" for row in _normed(f"conv{n}", f"bn{n}", n)]
    block += _normed("downsample.0", "downsample.1", "_skip")
    for stage in range(CONV_STAGES):
        table += rows(f"visual.layer{stage + 1}.{{i}}.", f"image/stage{stage}_block{{i}}/", *block)
    return table + rows(
        "visual.attnpool.",
        "image_head/",
        ("positional_embedding", "attention/position_embedding", param_layouts.COPY),
        *torch_pair("q_proj", "attention/q"),
        ("k_proj.weight v_proj.weight", "attention/kv/kernel", param_layouts.QKV_LINEAR),
        ("k_proj.bias v_proj.bias", "attention/kv/bias", param_layouts.QKV_BIAS),
        *torch_pair("c_proj", "projection"),
    )


def _convnext() -> list[Row]:
    trunk = "visual.trunk."
    table = rows(trunk, "image/", *_convolution("stem.0", "stem"), *torch_norm("stem.1", "stem_norm"))
    block = [
        *_convolution("conv_dw", "conv"),
        *torch_norm("norm", "norm"),
        *torch_pair("mlp.fc1", "mlp/fc1"),
        *torch_pair("mlp.fc2", "mlp/fc2"),
        ("gamma", "layer_scale", param_layouts.COPY),
    ]
    for stage in range(CONV_STAGES):
        theirs, ours = f"{trunk}stages.{stage}.", f"image/stage{stage}_"
        if stage:
            table += rows(theirs, ours, *torch_norm("downsample.0", "norm"), *_convolution("downsample.1", "conv"))
        table += rows(f"{theirs}blocks.{{i}}.", f"{ours}block{{i}}/", *block)
    table += rows(trunk, "image_head/", *torch_norm("head.norm", "norm"))
    projections = [*torch_pair("proj", "projection"), *torch_pair("mlp.fc1", "fc1"), *torch_pair("mlp.fc2", "fc2")]
    return table + rows("visual.head.", "image_head/", *projections)


# OpenAI's modified ResNet with its attention pool, and timm's ConvNeXt with OpenCLIP's head.
RESNET = _resnet()
CONVNEXT = _convnext()
