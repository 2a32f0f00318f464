"""Models of the families of transformers: random inputs and numbers, folders as mmjax reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmjax.interop import export, foreign_checkpoint, param_translation, run_config
from mmjax.interop.families import family
from mmjax.models import generation, make_model
from mmjax.parallel import partition

BATCH = 3
OF_TRAINING = ("init", "max_logit_scale", "modality_dropout")
CLOSE = dict(atol=1e-5, rtol=1e-5)
LAYERS = dict(depth=2, heads=2, mlp_dim=28)
IMAGE = dict(image_size=16, patch_size=8, width=16, norm_eps=1e-6, patch_bias=True, pre_norm=False, **LAYERS)
WORDS = dict(vocab_size=40, context_length=9, width=16, eos_id=2, **LAYERS)
GPT2 = WORDS | dict(activation="gelu_tanh", head="tied", cross_every=1)
# A tiny model of each family, by its class there.
BERT = WORDS | dict(norm="post", norm_eps=1e-12, embedding_norm=True, final_norm=False)
STREAM = {name: value for name, value in IMAGE.items() if name != "pre_norm"} | dict(norm_eps=1e-12)
VILT_TEXT = dict(vocab_size=40, context_length=9, token_types=2, embedding_norm=True, norm_eps=1e-12)
VILT = dict(kind="vilt", image=STREAM, text=VILT_TEXT)
BLOCK = dict(kv_heads=1, qkv_bias=False, out_bias=False, mlp_bias=False, mlp_gate=True, rope="half")
WRITER = dict(width=16, vocab_size=120, context_length=40, eos_id=2, norm_eps=1e-6, learned_positions=False, **LAYERS)
CLIP = IMAGE | dict(patch_bias=False, pre_norm=True)
SIGLIP = IMAGE | dict(class_token=False)
ALONE = dict(kind="fused", image=dict(image_size=16))
VIT = ALONE | dict(encoders=dict(image=IMAGE | dict(kind="image", position_antialias=False)))
LAYER_SCALED = IMAGE | dict(kind="image", mlp_dim=64, block=dict(layer_scale=1.0))
DINOV2 = ALONE | dict(encoders=dict(image=LAYER_SCALED | dict(position_antialias=False)))
REGISTERS = ALONE | dict(encoders=dict(image=LAYER_SCALED | dict(registers=2)))
LONE_CLIP, LONE_SIGLIP = (ALONE | dict(encoders=dict(image=tower | dict(kind="image"))) for tower in (CLIP, SIGLIP))
CLS, CLS_MEAN = (dict(fusion=dict(kind="alone", pool=pool)) for pool in ("cls", "cls_mean"))
TWO_TOWERS = dict(kind="two_tower", embed_dim=12, max_logit_scale=100.0)
TWO_TOWERS |= dict(image=CLIP | dict(activation="quick_gelu", pool="cls", projection="linear"))
OF_BERT = dict(causal=False, mask_padding=True, pad_id=0, token_types=2, pool="cls", projection="linear", eos_id=1)
SETTINGS: dict[str, dict[str, Any]] = {
    "ChineseCLIPModel": dict(**TWO_TOWERS, text=BERT | OF_BERT | dict(activation="gelu")),
    "MetaClip2Model": dict(
        **TWO_TOWERS, text=WORDS | dict(eos_id=2, activation="gelu", norm_eps=1e-5, pool="eos", projection="linear")
    ),
    "LlavaForConditionalGeneration": dict(
        **dict(kind="prefix_lm", image=CLIP, prefix="causal", feature_layer=-2, image_id=119),
        text=WRITER | dict(activation="silu", head="linear", head_bias=False, block=BLOCK | dict(norm_type="rms_norm")),
    ),
    "PaliGemmaForConditionalGeneration": dict(
        **dict(kind="prefix_lm", image=SIGLIP, prefix="full", prefix_text=True, connector="linear"),
        text=WRITER
        | dict(activation="gelu_tanh", head="tied", sep_id=108, embed_scale=True)
        | dict(block=BLOCK | dict(norm_type="gemma_rms_norm", head_dim=6)),
    ),
    "ViTModel": VIT | CLS | dict(classes=0),
    "ViTForImageClassification": VIT | CLS | dict(classes=2),
    "Dinov2Model": DINOV2 | CLS | dict(classes=0),
    "Dinov2ForImageClassification": DINOV2 | CLS_MEAN | dict(classes=2),
    "Dinov2WithRegistersModel": REGISTERS | CLS | dict(classes=0),
    "Dinov2WithRegistersForImageClassification": REGISTERS | CLS_MEAN | dict(classes=2),
    "CLIPVisionModel": LONE_CLIP | CLS | dict(classes=0),
    "CLIPVisionModelWithProjection": LONE_CLIP | dict(fusion=dict(kind="alone", pool="cls", projection=10), classes=0),
    "SiglipVisionModel": LONE_SIGLIP | dict(fusion=dict(kind="alone", pool="map"), classes=0),
    "VisionEncoderDecoderModel": dict(kind="captioner", image=IMAGE, text=GPT2),
    "BlipForConditionalGeneration": dict(
        kind="captioner", image=IMAGE, text=BERT | dict(head="mlm", cross_every=1), caption_id=1
    ),
    "BlipForQuestionAnswering": dict(
        kind="captioner",
        image=IMAGE,
        text=BERT | dict(head="mlm", cross_every=1, sep_id=2),
        question=BERT | dict(eos_id=None),
        caption_id=1,
    ),
    "BlipForImageTextRetrieval": dict(kind="blip", embed_dim=12, image=IMAGE, text=BERT, match=True),
    "Blip2ForImageTextRetrieval": dict(
        kind="qformer", embed_dim=12, image=IMAGE, text=BERT | dict(cross_every=2, eos_id=None), queries=3, match=True
    ),
    "Blip2ForConditionalGeneration": dict(
        **dict(kind="prefix_lm", image=IMAGE, connector="linear", prefix="causal", image_id=119),
        qformer=dict(width=16, queries=3, cross_every=2, norm_eps=1e-12, **LAYERS),
        text=WRITER | dict(activation="relu", head="tied", norm_eps=1e-5, learned_positions=True),
    ),
    "ViltForQuestionAnswering": VILT | dict(answers=2),
    "ViltForImageAndTextRetrieval": VILT | dict(match=True),
    "ViltForMaskedLM": VILT | dict(mlm=True),
    "ViltModel": VILT,
}
PREPARED = dict(size=16, resize="squash", interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3)


class Inputs(NamedTuple):
    """Normalised images, ids of texts padded on the right, and which of them are real."""

    images: np.ndarray
    text: np.ndarray
    mask: np.ndarray

    def tensors(self):
        """The same as PyTorch wants them."""
        import torch

        images = torch.from_numpy(self.images.transpose(0, 3, 1, 2).copy())
        return images, torch.from_numpy(self.text.astype(np.int64)), torch.from_numpy(self.mask.astype(np.int64))


def inputs(rng, side: int, vocabulary: int, length: int, *, lengths: bool = True) -> Inputs:
    """Random inputs; 0 is padding."""
    real = rng.integers(2, length + 1, BATCH) if lengths else np.full(BATCH, length)
    mask = np.arange(length) < real[:, None]
    text = np.where(mask, rng.integers(3, vocabulary, mask.shape), 0).astype(np.int32)
    return Inputs(rng.standard_normal((BATCH, side, side, 3)).astype(np.float32), text, mask)


def randomised(model, seed: int, std: float = 0.25):
    """The model with numbers so large that a wrong epsilon, activation or order shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(std * torch.randn(weight.shape, generator=generator))
            if weight.ndim == 1 and name.endswith("weight"):  # of a layer norm
                weight.add_(1.0)
    return model.eval()


class Opened(NamedTuple):
    """A folder as mmjax has it: the module with its parameters, these by path, and the run's config."""

    module: Any
    params: dict[str, np.ndarray]
    config: Any


def open_folder(folder, overrides: Mapping[str, Any] | None = None) -> Opened:
    """Reads a folder of a family, or a file with settings that it does not tell."""
    foreign = foreign_checkpoint.open_checkpoint(folder, overrides)
    params = foreign.read(lambda _, array: jnp.asarray(array))
    settings = {name: x for name, x in foreign.settings.items() if name not in OF_TRAINING}
    module = make_model.make_model(settings, jnp.float32, {}).bind({"params": partition.nested(params)})
    return Opened(module, params, run_config.make_config(foreign))


def write_greedily(module, images, prompt, mask, tokens: int, eos: int, pad: int) -> np.ndarray:
    """The ids that a module writes after a prompt, of normalised images."""
    decoding = generation.Decoding(max_tokens=tokens, eos_id=eos, pad_id=pad)
    logits, carry = module.start(module.encode_image(images), prompt, mask, prompt.shape[1] + tokens)
    take = lambda carry, rows: module.take(carry, rows, len(images))
    return np.asarray(generation.generate(module.step, logits, carry, decoding, take=take).tokens)


def padded(ids: np.ndarray, length: int, eos: int, pad: int) -> np.ndarray:
    """Written ids as `write_greedily` gives them: `length` of them, padding after the end of text."""
    rows = np.full((len(ids), length), pad)
    for row, written in zip(rows, np.asarray(ids), strict=True):
        written = written[:length]
        ends = np.flatnonzero(written == eos)
        count = ends[0] + 1 if len(ends) else len(written)
        row[:count] = written[:count]
    return rows


def blank_params(settings, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of a model by path."""
    shapes = param_translation.param_shapes(settings)
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}


def write_folder(settings: dict[str, Any], folder: Path) -> Path:
    """A folder as mmjax writes it, with a model of random numbers."""
    full = family.complete(settings)
    export.write(folder, "hf", settings=full, preprocessing=PREPARED, params=blank_params(full))
    return folder
