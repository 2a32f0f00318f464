"""CoCa models of open_clip's, drawn by a seed: read, written back, and what they embed, score and write.

python -m campaigns.coca_models --count=12 --seed=0

Needs the extra `full`. Captions are greedy; open_clip's run with transformers 5, which dropped its beam search.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.command import compare_seeds

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

TOLERANCE = 1e-5
IMAGES, SIDE = 4, 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def draw(seed: int) -> tuple[Any, dict[str, Any]]:
    """A model of open_clip's with random numbers, and its config."""
    import open_clip
    import torch

    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]
    heads, width, vocab_size, context = pick(1, 2), pick(16, 32), int(rng.integers(30, 90)), int(rng.integers(8, 16))
    vision = dict(image_size=SIDE, layers=pick(1, 2), width=width, head_width=8, patch_size=8, output_tokens=True)
    embed_dim = text_width = pick(16, 24, 32)
    if pick(True, True, False):
        vision |= dict(attentional_pool=True, attn_pooler_heads=pick(1, 2), attn_pooler_queries=int(rng.integers(2, 7)))
    else:
        text_width = width  # the decoder looks at the patches themselves
    shared = dict(context_length=context, vocab_size=vocab_size, width=text_width, heads=heads)
    config = dict(
        embed_dim=embed_dim,
        quick_gelu=pick(False, True),
        vision_cfg=vision,
        text_cfg=shared | dict(layers=pick(1, 2), embed_cls=True, output_tokens=True),
        multimodal_cfg=shared | dict(layers=pick(1, 2), attn_pooler_heads=2, mlp_ratio=pick(2, 4)),
    )
    generator = torch.Generator().manual_seed(seed)
    model = open_clip.CoCa(**config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.25 * torch.randn(weight.shape, generator=generator))
            if "ln_" in name and name.endswith("weight"):
                weight.add_(1.0)
        model.logit_scale.fill_(2.0)
    return model, config


def inputs(seed: int, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, H, W, 3] and ids [B, L] of several lengths, 0 behind them and once within."""
    rng = np.random.default_rng(seed + 1)
    length, vocab_size = config["text_cfg"]["context_length"], config["text_cfg"]["vocab_size"]
    ids = rng.integers(1, vocab_size, (IMAGES, length))
    for row, words in enumerate(rng.integers(1, length, IMAGES - 1)):
        ids[row, words:] = 0  # the last text is full
    ids[-1, 3] = 0
    return rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8), ids


def theirs(model: Any, images: np.ndarray, ids: np.ndarray) -> list[np.ndarray]:
    """Embeddings of images and texts, and caption logits, by open_clip."""
    import torch

    with torch.no_grad():
        pixels, text = _pixels(images), torch.from_numpy(ids)
        logits = model(pixels, text, output_labels=False)["logits"]
        return [x.numpy() for x in (model.encode_image(pixels), model.encode_text(text), logits)]


def _pixels(images: np.ndarray) -> Any:
    """Images as open_clip has them normalised."""
    import torch

    normalised = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))


def their_captions(model: Any, images: np.ndarray, vocab_size: int, length: int) -> np.ndarray:
    """Ids that open_clip writes greedily, without the first one."""
    from open_clip import coca_model
    from transformers.generation import logits_process, stopping_criteria

    # What its import of transformers' classes, which fails for want of a scorer of beams, leaves out.
    for module in (logits_process, stopping_criteria):
        for name in ("LogitsProcessorList", "MinLengthLogitsProcessor", "RepetitionPenaltyLogitsProcessor"):
            setattr(coca_model, name, getattr(module, name, getattr(coca_model, name, None)))
        for name in ("MaxLengthCriteria", "StoppingCriteriaList"):
            setattr(coca_model, name, getattr(module, name, getattr(coca_model, name, None)))
    coca_model.__dict__.update(_has_transformers=True)
    coca_model.GENERATION_TYPES["top_k"] = logits_process.TopKLogitsWarper
    options = dict(generation_type="top_k", top_k=1, seq_len=length, min_seq_len=3, pad_token_id=0)
    options |= dict(sot_token_id=vocab_size - 2, eos_token_id=vocab_size - 1, fixed_output_length=True)
    return model.generate(_pixels(images), **options).numpy()[:, 1:]


def our_captions(loaded: Any, images: np.ndarray, vocab_size: int, length: int) -> np.ndarray:
    """The same by mmjax."""
    import jax
    import jax.numpy as jnp

    from mmjax.models import generation

    decoding = generation.Decoding(max_tokens=length - 1, min_tokens=2, eos_id=vocab_size - 1, pad_id=0)
    prompt = jnp.full((len(images), 1), vocab_size - 2, jnp.int32)
    write = lambda params, images: loaded._task.generate(params, images, prompt, jnp.ones_like(prompt, bool), decoding)
    return np.asarray(jax.jit(write)(loaded.params, images).tokens)


def same_captions(wanted: np.ndarray, written: np.ndarray, end: int) -> bool:
    """Whether captions are the same up to where open_clip ends them: at the end of text, at its padding, by force."""
    for row, ours in zip(wanted.tolist(), written.tolist(), strict=True):
        length = min([row.index(token) for token in (end, 0) if token in row] + [len(row) - 1])
        if row[:length] != ours[:length] or (length < len(row) - 1 and row[length] == end != ours[length]):
            return False
    return True


def differences(seed: int, folder: Path) -> dict[str, float]:
    """How far mmjax is from open_clip: what it reads (1.0 where captions are others), and what it writes."""
    import jax
    import open_clip
    from safetensors.torch import load_file, save_file

    import mmjax
    from mmjax.inference import checkpoint_source, convert

    written, read = folder / "written", folder / "read"
    written.mkdir()
    read.mkdir()
    model, config = draw(seed)
    images, ids = inputs(seed, config)
    wanted = theirs(model, images, ids)
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, read / "open_clip_model.safetensors")
    (read / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config | dict(custom_text=True))))

    loaded = mmjax.load(read)
    apply = lambda params, method, *arrays: loaded._task.model.apply({"params": params}, *arrays, method=method)
    score = lambda params, images, ids: apply(params, "caption_logits", apply(params, "encode_image", images), ids)
    pixels = np.ascontiguousarray(_pixels(images).numpy().transpose(0, 2, 3, 1))
    logits = np.asarray(jax.jit(score)(loaded.params, pixels, ids.astype(np.int32)))
    embeddings = [loaded.encode_image(images), loaded.encode_text(ids)]
    result = {"embeddings": max(float(abs(x - y).max()) for x, y in zip(embeddings, wanted, strict=False))}
    # Where a text is full, all its positions; else its words, behind which nothing reads the scores.
    result["logits"] = float((abs(logits - wanted[2]) / np.maximum(1.0, abs(wanted[2]).max()))[ids != 0].max())
    vocab_size = config["text_cfg"]["vocab_size"]
    length = config["text_cfg"]["context_length"] - 1
    captions = [write(x, images, vocab_size, length) for write, x in ((their_captions, model), (our_captions, loaded))]
    result["captions"] = float(not same_captions(captions[0], captions[1], vocab_size - 1))

    convert.write_files(checkpoint_source.open_source(read), written, "openclip")
    again = json.loads((written / "open_clip_config.json").read_text())["model_cfg"]
    copied = open_clip.CoCa(**{key: value for key, value in again.items() if key != "custom_text"}).eval()
    copied.load_state_dict(load_file(written / "open_clip_model.safetensors"), strict=True)
    parts = zip(theirs(copied, images, ids), wanted, strict=True)
    return result | {"written": max(float(abs(x - y).max()) for x, y in parts)}


def main() -> int:
    return compare_seeds(__doc__, 12, differences, TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
