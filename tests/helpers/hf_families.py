"""Whole models of transformers with random weights, and the same models read, run and written by mmjax."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mmjax
from mmjax.inference import convert
from mmjax.models import generation
from mmjax.parallel import partition

BATCH = 3
CLOSE = dict(atol=1e-5, rtol=1e-5)


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


def bound(model: Any) -> Any:
    """A loaded model's module with its parameters."""
    return model._task.model.bind({"params": model.params})


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


Outputs = dict[str, np.ndarray]


class Case(NamedTuple):
    """A family, as tests make and run it.

    Attributes:
      architecture: of transformers.
      make: random numbers -> (the model there, what `inputs` takes).
      theirs: (the model there, inputs) -> outputs by name.
      ours: (what `mmjax.load` gives, inputs) -> the same.
      can: the methods that it then has.
    """

    architecture: str
    make: Callable[[np.random.Generator], tuple[Any, dict[str, Any]]]
    theirs: Callable[[Any, Inputs], Outputs]
    ours: Callable[[Any, Inputs], Outputs]
    can: tuple[str, ...]


def check(case: Case, seed: int, folder) -> None:
    """A random model is read, computes the same, is written back, loaded strictly there, and read once more."""
    import torch
    import transformers

    rng = np.random.default_rng(seed)
    model, shape = case.make(rng)
    randomised(model, seed)
    model.save_pretrained(folder / "theirs")
    loaded = mmjax.load(folder / "theirs")
    assert loaded.can == case.can
    batch = inputs(rng, **shape)
    with torch.no_grad():
        want = case.theirs(model, batch)
    got = case.ours(loaded, Inputs(*map(jnp.asarray, batch)))
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **CLOSE, err_msg=name)

    convert.convert(folder / "theirs", folder / "back", to="hf")
    cls = getattr(transformers, case.architecture)
    back, info = cls.from_pretrained(folder / "back", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        again = case.theirs(back.eval(), batch)
    for name, value in want.items():
        np.testing.assert_allclose(again[name], value, **CLOSE, err_msg=name)
    reloaded = partition.flattened(mmjax.load(folder / "back").params)
    for path, leaf in partition.flattened(loaded.params).items():
        np.testing.assert_array_equal(reloaded[path], leaf, err_msg=path)


def layers(rng) -> dict[str, Any]:
    """Sizes and functions of layers, as BERT's and ViT's configs call them."""
    huggingface = importlib.import_module("mmjax.interop.huggingface")
    heads = int(rng.choice([1, 2, 3]))
    return dict(
        hidden_size=heads * int(rng.choice([4, 6])),
        num_attention_heads=heads,
        num_hidden_layers=int(rng.integers(1, 4)),
        intermediate_size=int(rng.integers(5, 30)),
        hidden_act=str(rng.choice(list(huggingface.ACTIVATIONS))),
        layer_norm_eps=float(rng.choice([1e-12, 1e-6, 1e-3])),
    )


# -- ViT-GPT2 ----------------------------------------------------------------------------------------------------------


def _vit_gpt2(rng):
    import transformers

    patch = int(rng.choice([3, 4]))
    vision = layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)
    vocabulary, length, width = int(rng.integers(8, 50)), int(rng.integers(6, 12)), vision["hidden_size"]
    eos = int(rng.integers(0, vocabulary))
    decoder = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=int(rng.integers(1, 4)),
        n_head=vision["num_attention_heads"],
        n_inner=[None, int(rng.integers(5, 30))][int(rng.integers(2))],
        activation_function=str(rng.choice(["gelu_new", "gelu", "relu"])),
        layer_norm_epsilon=float(rng.choice([1e-5, 1e-3])),
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vision), decoder
    )
    config.decoder_start_token_id = int(rng.choice([eos, rng.integers(0, vocabulary)]))
    config.pad_token_id = config.eos_token_id = eos
    model = transformers.VisionEncoderDecoderModel(config)
    return model, dict(side=vision["image_size"], vocabulary=vocabulary, length=length)


def _vit_gpt2_theirs(model, batch):
    images, text, mask = batch.tensors()
    config = model.config
    text[:, 0] = config.decoder_start_token_id
    logits = model(pixel_values=images, decoder_input_ids=text, decoder_attention_mask=mask).logits
    written = model.generate(images, max_new_tokens=5, do_sample=False, num_beams=1)[:, 1:]
    ids = padded(written.numpy(), 5, config.eos_token_id, config.eos_token_id)
    return dict(logits=np.where(batch.mask[..., None], logits.numpy(), 0), ids=ids)


def _captions(loaded, batch, pad=None):
    """Logits and greedily written ids of a captioner."""
    module, eos = bound(loaded), loaded.config.model.text.eos_id
    first = loaded.config.model.caption_id
    text = batch.text.at[:, 0].set(eos if first is None else first)
    image = module.encode_image(batch.images)
    logits = np.asarray(module.caption_logits(image, text, batch.mask))
    ids = write_greedily(
        module, batch.images, text[:, :1], jnp.ones((BATCH, 1), bool), 5, eos, eos if pad is None else pad
    )
    return dict(logits=np.where(batch.mask[..., None], logits, 0), ids=ids)


VIT_GPT2 = Case("VisionEncoderDecoderModel", _vit_gpt2, _vit_gpt2_theirs, _captions, ("caption",))
CASES = {"vit_gpt2": VIT_GPT2}


def blank_params(settings, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of a model by path."""
    translation = importlib.import_module("mmjax.interop.param_translation")
    shapes = translation.param_shapes(settings)
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {path: np.asarray(jax.random.normal(key, shapes[path])) for path, key in zip(shapes, keys, strict=True)}
