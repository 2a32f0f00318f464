"""Rules by which fresh parameters are drawn: `model.init` names the library or the model whose rule it is.

Each rule is a table of path patterns. A parameter is drawn by the first pattern that matches its whole path, from a
random key of its own, so that one more parameter changes no other; layers that are stored stacked are drawn one by one.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models.config import LSTMCaptionerConfig, ModelConfig, TwoTowerConfig
from mmjax.parallel import partition

OPENAI = "openai"
Initializer = Callable[..., Array]  # (key, shape, dtype) -> array


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter, as a rule sees it.

    Attributes:
      path: such as `image/transformer/layers/mlp/fc1/kernel`.
      shapes: of all parameters by path; of one layer where layers are stacked.
      model: the model's settings.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    model: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, of one layer."""
        return self.shapes[self.path]

    @property
    def fan_in(self) -> int:
        """Inputs of the linear map that it is the kernel or the bias of."""
        kernel = self._kernel
        return kernel[0] if self._is_projection else math.prod(kernel[:-1])

    @property
    def fan_out(self) -> int:
        """Outputs of that map; queries, keys and values are maps of their own."""
        kernel = self._kernel
        return math.prod(kernel[-2:]) if self._is_projection else kernel[-1]

    @property
    def tower(self) -> Mapping[str, Any]:
        """Settings of the tower or decoder that it is in, or whose head it is in."""
        return self.model[re.split("[/_]", self.path)[0]]

    def near(self, name: str) -> tuple[int, ...] | None:
        """Shape of another parameter by its path from the module that holds this one's module; None without one."""
        return self.shapes.get("/".join([*self.path.split("/")[:-2], name]))

    @property
    def _kernel(self):
        return self.shapes[self.path.removesuffix("bias").removesuffix("kernel") + "kernel"]

    @property
    def _is_projection(self):
        """Whether it maps to queries, keys or values: [inputs, ..., heads, width of a head]."""
        return re.fullmatch(r".*attention/(qkv|q|kv)/\w+", self.path) is not None


Distribution = Callable[[Parameter], Initializer]
Rule = Callable[[Parameter], Initializer | None]  # None: as the model's own modules have it
Rules = tuple[tuple[str, Rule], ...]


# -- distributions -----------------------------------------------------------------------------------------------------


def zeros(_: Parameter) -> Initializer:
    """Zeros."""
    return nn.initializers.zeros


def normal(std: float) -> Distribution:
    """A normal distribution of one standard deviation for all sizes."""
    return lambda _: nn.initializers.normal(std)


def normal_of(std: Callable[[Parameter], float]) -> Distribution:
    """A normal distribution whose standard deviation follows from sizes."""
    return lambda p: nn.initializers.normal(std(p))


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_linear(p: Parameter) -> Initializer:
    """PyTorch's default of linear maps and convolutions, kernel and bias: uniform within 1 / sqrt(inputs)."""
    return _uniform(p.fan_in**-0.5)


def torch_attention(p: Parameter) -> Initializer:
    """`torch.nn.MultiheadAttention`'s projections: Xavier uniform.

    Queries, keys and values are one matrix of three times the outputs, but where the memory has a width of its own.
    """
    query, memory = p.near("q/kernel"), p.near("kv/kernel")
    fused = query is None or memory is None or query[0] == memory[0]
    return _uniform(math.sqrt(6 / (p.fan_in + (3 if fused else 1) * p.fan_out)))


def xavier_uniform(p: Parameter) -> Initializer:
    """Xavier uniform of each map, as flax draws the kernels of its attention."""
    return _uniform(math.sqrt(6 / (p.fan_in + p.fan_out)))


def lecun_normal(p: Parameter) -> Initializer:
    """LeCun normal, cut off at two standard deviations: flax's default of dense layers and convolutions."""
    std = p.fan_in**-0.5 / 0.87962566103423978  # of what is cut off
    return nn.initializers.truncated_normal(std)


# -- families: the rule of a tower, or of all of them ------------------------------------------------------------------

_WIDTH = normal_of(lambda p: p.shape[-1] ** -0.5)
_TOWER = normal_of(lambda p: p.tower["width"] ** -0.5)
_normal_of_inputs = normal_of(lambda p: p.shape[0] ** -0.5)
# Residual branches shrink with depth.
_RESIDUAL = normal_of(lambda p: p.tower["width"] ** -0.5 * (2 * p.tower["depth"]) ** -0.5)

_TORCH: Rules = (
    (r".*attention/(qkv|q|kv)/kernel", torch_attention),
    (r".*attention/\w+/bias", zeros),
    (r".*(kernel|bias)", torch_linear),
)


def _image_projection(p: Parameter) -> Initializer:
    """The projection of an image tower; behind timm's, ConvNeXt, it is as PyTorch has it."""
    is_torch = p.tower.get("kind") == "convnext" or (p.path.endswith("bias") and "kind" in p.tower)
    if is_torch or p.path.endswith("bias"):
        return torch_linear(p) if is_torch else zeros(p)
    return _TOWER(p) if "width" in p.tower else _normal_of_inputs(p)


# timm 1.0.31, `convnext._init_weights`; open_clip 3.3, modified_resnet.py, whose convolutions are as PyTorch has them.
_CONVOLUTIONAL: Rules = (
    (r"image/(stem|stage\d_conv|stage\d_block\d+/(conv|mlp/fc[12]))/kernel", normal(0.02)),
    (r"image/(stem|stage\d_conv|stage\d_block\d+/(conv|mlp/fc[12]))/bias", zeros),
    (r"image_head/attention/(q|kv)/kernel", _normal_of_inputs),
    (r"image_head/attention/(q|kv)/bias", torch_linear),
)

# open_clip 3.3, transformer.py. `VisionTransformer.init_parameters` does nothing: its layers are as PyTorch has them.
_OPEN_CLIP_IMAGE: Rules = (
    *_CONVOLUTIONAL,
    (r"image/(class_token|position_embedding)", _WIDTH),
    (r"image.*/probe", normal(1.0)),
    (r"image.*projection/(kernel|bias)", _image_projection),
    *_TORCH,
)
# `TextTransformer.init_parameters`, OpenAI's, which leaves the biases of the MLP as PyTorch has them.
_OPEN_CLIP_TEXT: Rules = (
    (r"text/token_embedding", normal(0.02)),
    (r"text/position_embedding|text_class_token", normal(0.01)),
    (r"text/.*attention/qkv/kernel", _TOWER),
    (r"text/.*(attention/out|mlp/fc2)/kernel", _RESIDUAL),
    (r"text/.*mlp/fc1/kernel", normal_of(lambda p: (2 * p.tower["width"]) ** -0.5)),
    (r"text.*projection/kernel", _TOWER),
    (r"text.*projection/bias", zeros),
    *_TORCH,
)
# Nothing calls `MultimodalTransformer.init_parameters`, so the layers of CoCa's decoder are as PyTorch has them. There,
# the map to words is left uninitialised (`torch.empty`); here it is drawn as that function would draw it.
_OPEN_CLIP_DECODER: Rules = (
    (r"decoder_head/kernel", normal_of(lambda p: p.model["text"]["width"] ** -0.5)),
    *_TORCH,
)


def _patches_alone(p: Parameter) -> Initializer:
    """Position tables of big_vision, where the class token has no position: here, one of zeros."""
    draw = _WIDTH(p)
    if not (p.path.startswith("image/") and p.tower.get("class_token")):
        return draw
    return lambda *args: draw(*args).at[0].set(0)


# big_vision, models/vit.py and models/proj/image_text/text_transformer.py; heads as with head_zeroinit=False.
_BIG_VISION: Rules = (
    (r"(image|text)/position_embedding", _patches_alone),
    (r"text/token_embedding", _WIDTH),  # flax's `Embed`
    (r"image/class_token", zeros),
    (r".*/probe", lambda p: _uniform(math.sqrt(6 / (1 + p.shape[-1])))),  # of [1, 1, D]
    (r".*attention/\w+/kernel", xavier_uniform),
    (r".*mlp/\w+/kernel", xavier_uniform),
    (r".*mlp/\w+/bias", normal(1e-6)),
    (r".*kernel", lecun_normal),
    (r".*bias", zeros),
)

# timm 1.0.31, `VisionTransformer.init_weights`. It cuts its normal distributions off at 100 standard deviations.
_TIMM: Rules = (
    (r".*/position_embedding", normal(0.02)),
    (r".*/class_token", normal(1e-6)),
    (r".*/mask_token", zeros),  # transformers' ViT; timm has none
    (r".*patch_embed/(kernel|bias)", torch_linear),
    (r".*kernel", normal(0.02)),
    (r".*bias", zeros),
)


def _without_padding(std: float) -> Rule:
    """An embedding whose row of padding, 0 for BERT, is zero: `torch.nn.Embedding` with `padding_idx`."""
    return lambda p: lambda *args: nn.initializers.normal(std)(*args).at[p.tower.get("pad_id") or 0].set(0)


# transformers, `PreTrainedModel._init_weights`.
_NORMAL: Rules = ((r".*bias", zeros), (r".*", normal(0.02)))
_BERT: Rules = ((r"(text|question)/token_embedding", _without_padding(0.02)), *_NORMAL)
# Of a text tower of Hugging Face's in OpenCLIP; RoBERTa's positions have a row of padding, too.
_OPEN_CLIP_HF_TEXT: Rules = (
    (r"text/token_embedding", _without_padding(0.02)),
    (r"text/position_embedding", lambda p: (_without_padding if _skips_padding(p) else normal)(0.02)(p)),
    (r"text_head/projection/.*", torch_linear),
    *_NORMAL,
)


def _skips_padding(p: Parameter) -> bool:
    return p.tower.get("positions") == "after_pad"


def _open_clip_text(p: Parameter) -> Initializer | None:
    rules = _OPEN_CLIP_HF_TEXT if p.tower.get("norm") == "post" else _OPEN_CLIP_TEXT
    return next(rule for pattern, rule in rules if re.fullmatch(pattern, p.path))(p)


# transformers, `GPT2PreTrainedModel._init_weights`: what is added to the residual stream shrinks with depth.
_GPT2: Rules = (
    (r".*(attention/out|mlp/fc2)/kernel", normal_of(lambda p: 0.02 * (2 * p.tower["depth"]) ** -0.5)),
    *_NORMAL,
)

# What every family leaves as it is: norms are the identity; scales of layers, scale and bias of logits are settings.
_COMMON: Rules = (
    (r"image/stage\d_block\d+/norm3/scale", zeros),  # of modified ResNets, whose blocks start as the identity
    (r".*/(layer_scale|running_mean|running_var)|image_head/attention/position_embedding", lambda _: None),
    (r"logit_(scale|bias)|(.*[/_])?norm[^/]*/(scale|bias)|.*/[qk]_norm/scale|.*/layer_scale\d", lambda _: None),
)


# -- what `model.init` may be ------------------------------------------------------------------------------------------


class Scheme(NamedTuple):
    """The rule of a whole model.

    Attributes:
      kinds: of model that have it.
      families: (path pattern, rules) pairs, first match wins.
      same: (path pattern, replacement) pairs: parameters that are drawn like another one, number by number.
    """

    kinds: tuple[str, ...]
    families: tuple[tuple[str, Rules], ...]
    same: tuple[tuple[str, str], ...] = ()


# `openai` is what the modules of `mmjax.nn` and `mmjax.models` draw: all towers like OpenAI's text tower.
SCHEMES: dict[str, Scheme] = {
    "open_clip": Scheme(
        ("two_tower", "coca"),
        ((r"image.*", _OPEN_CLIP_IMAGE), (r"text.*", ((r".*", _open_clip_text),)), (r"decoder.*", _OPEN_CLIP_DECODER)),
    ),
    "big_vision": Scheme(("two_tower",), ((r".*", _BIG_VISION),)),
    "bert": Scheme(
        ("two_tower", "coca", "albef", "blip", "vilt", "qformer", "captioner", "prefix_lm"),
        ((r".*", _BERT),),
    ),
    # ALBEF (models/model_pretrain.py): what is neither DeiT's nor BERT's is a plain linear layer. ViLT's answers.
    "albef": Scheme(
        ("albef",),
        ((r"image/.*", _TIMM), (r"(text|fusion)/.*|answer_head/.*", _BERT), (r".*", _TORCH)),
    ),
    # ViLT (modules/vilt_module.py): BERT's distributions all over, also for padding, around timm's layers.
    "vilt": Scheme(("vilt",), ((r"image/.*", _TIMM), (r".*", _NORMAL))),
    # BLIP-2's first stage (LAVIS, blip2_qformer.py): the queries' MLPs start as copies of the text's.
    "blip2": Scheme(
        ("qformer",),
        ((r"image/.*", _TIMM), (r"text/.*|queries|answer_head/.*", _BERT), (r".*", _TORCH)),
        same=((r"(text/.*/)mlp/", r"\1segment1_mlp/"),),
    ),
    # The heads of BLIP's pretraining are plain linear layers.
    "blip": Scheme(
        ("captioner", "blip"),
        ((r"image/.*", _TIMM), (r"(text|text_writer|question|answer_head)/.*", _BERT), (r".*", _TORCH)),
    ),
    "vit_gpt2": Scheme(("captioner",), ((r"image/.*", _TIMM), (r".*", _GPT2))),
    # LLaVA's connector is two plain linear layers; its image tower is CLIP's.
    "llava": Scheme(
        ("prefix_lm",),
        ((r"image/.*", _OPEN_CLIP_IMAGE), (r"qformer/.*", _NORMAL), (r"text/.*", _GPT2), (r".*", _TORCH)),
    ),
}


def check(model: ModelConfig) -> None:
    """Checks that the rule that a model's config names exists, and is one for this kind of model.

    Raises:
      UserError: it does not, or is not; those that are, are listed.
    """
    name, kind = model.init, model.kind
    validate_choice("model.init", name, [OPENAI, *SCHEMES])
    lstm = isinstance(model, LSTMCaptionerConfig)
    serving = [OPENAI, *(rule for rule, scheme in SCHEMES.items() if kind in scheme.kinds and not lstm)]
    if name not in serving:
        model_kind = f"model.kind={kind!r}" + " with model.decoder='lstm'" * lstm
        raise UserError(f"model.init={name!r} has no rule for {model_kind}; choose one of: {', '.join(serving)}")
    towers = {"image": model.image, "text": model.text} if isinstance(model, TwoTowerConfig) else {}
    pooled = [f"model.{name}.pool" for name, tower in towers.items() if tower.pool == "map"]
    if name == "open_clip" and pooled:
        raise UserError(
            f"model.init='open_clip' has no rule for {pooled[0]}='map': OpenCLIP's own towers do not pool so, and its"
            " SigLIP image towers are timm's; choose model.init='big_vision' (SigLIP's own rule), or another pool"
        )


def initialise(name: str, params: Any, model: Mapping[str, Any], key: Key[Array, ""]) -> Any:
    """Draws a model's parameters by the rule of a name.

    Under `jit` nothing is computed of what it replaces.

    Args:
      name: `openai`, which changes nothing, or one of `SCHEMES`.
      params: as the model's modules draw them.
      model: the model's settings.
      key: random key.

    Raises:
      ValueError: the rule does not say how one of the parameters is drawn.
    """
    if name == OPENAI:
        return params
    scheme = SCHEMES[name]
    leaves = {partition.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    shapes = {path: leaf.shape[_is_stacked(path) :] for path, leaf in leaves.items()}

    def draw(path, leaf):
        parameter = Parameter(path, shapes, model)
        rule = _rule(scheme, parameter)
        if rule is None:
            raise ValueError(f"model.init={name!r} does not say how {path} is drawn")
        initializer = rule(parameter)
        if initializer is None:
            return leaf
        for pattern, replacement in scheme.same:
            path = re.sub(f"^{pattern}", replacement, path)
        parameter_key = jax.random.fold_in(key, jnp.uint32(zlib.crc32(path.encode())))
        if not _is_stacked(path):
            return initializer(parameter_key, leaf.shape, leaf.dtype)
        # One layer after the other: drawing takes memory beside the result's.
        one = lambda layer_key: initializer(layer_key, leaf.shape[1:], leaf.dtype)
        return jax.lax.map(one, jax.random.split(parameter_key, leaf.shape[0]))

    return partition.map_with_path(draw, params)


def _is_stacked(path: str) -> bool:
    """Whether a parameter's first axis counts layers."""
    return re.search(r"(^|/)(cross_)?layers/", path) is not None


def _rule(scheme: Scheme, parameter: Parameter) -> Rule | None:
    """The first rule for a parameter; None where there is none."""
    matching = lambda table: (value for pattern, value in table if re.fullmatch(pattern, parameter.path))
    family = next(matching(scheme.families), ())
    return next(matching((*_COMMON, *family)), None)
