"""LLaVA, PaliGemma and BLIP-2 with OPT of transformers with random weights, as `hf_families` makes and runs models."""

import jax.numpy as jnp
import numpy as np

from campaigns import hf_families
from campaigns.hf_families import BATCH, Case

EOS, NEWLINE, TOKENS = 2, 108, 5


def _vision(rng):
    patch = int(rng.choice([3, 4]))
    return hf_families.layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)


def _text(rng, vocabulary):
    kv_heads = int(rng.choice([1, 2]))
    heads = kv_heads * int(rng.choice([1, 2, 3]))
    return dict(
        vocab_size=vocabulary,
        hidden_size=heads * int(rng.choice([4, 6])),
        intermediate_size=int(rng.integers(5, 30)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=int(rng.choice([4, 6])),
        max_position_embeddings=40,
        rms_norm_eps=float(rng.choice([1e-6, 1e-3])),
        rope_parameters=dict(rope_type="default", rope_theta=float(rng.choice([100.0, 10_000.0]))),
        attention_bias=bool(rng.integers(2)),
        tie_word_embeddings=bool(rng.integers(2)),
        eos_token_id=EOS,
        pad_token_id=0,
    )


def _shape(vision, vocabulary):
    return dict(side=vision["image_size"], vocabulary=vocabulary, length=9)


def _llava(rng):
    import transformers

    vision, vocabulary = _vision(rng), int(rng.integers(12, 50))
    text = _text(rng, vocabulary) | dict(mlp_bias=bool(rng.integers(2)))
    depth = vision["num_hidden_layers"]
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=vocabulary - 1,
        vision_feature_layer=int(rng.choice([-1, -depth, depth])),
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return transformers.LlavaForConditionalGeneration(config), _shape(vision, vocabulary - 1)


def _paligemma(rng):
    import transformers

    vision, vocabulary = _vision(rng), int(rng.integers(115, 140))
    text = _text(rng, vocabulary)
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**vision, vision_use_head=False),
        text_config=transformers.GemmaConfig(**text),
        image_token_index=vocabulary - 1,
        projection_dim=text["hidden_size"],
        hidden_size=text["hidden_size"],
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return transformers.PaliGemmaForConditionalGeneration(config), _shape(vision, NEWLINE)


# Where the image stands in each of the texts, and how many tokens of them are a prompt.
_PLACES, _PROMPT = (1, 0, 2), 3


def _with_images(ids, starts, image_id, patches):
    """Ids of texts with an image's tokens in the place of one of theirs, or in front."""
    rows = []
    for row, column in zip(ids, starts, strict=True):
        before, after = (row[:0], row) if column is None else (row[:column], row[column + 1 :])
        rows.append(np.concatenate([before, np.full(patches, image_id), after]))
    return np.stack(rows)


def _scaled(logits, mask):
    """Logits of real tokens as parts of the largest, and 0 for padding."""
    logits = np.where(mask[..., None], logits, 0)
    return logits / np.abs(logits).max()


def _placed(text, image_id):
    text = np.array(text)
    text[np.arange(BATCH), _PLACES] = image_id
    return text


def _generate(model, prompt, images, **inputs):
    """Ids that transformers' model writes after a prompt, greedily."""
    import torch

    written = model.generate(
        pixel_values=images,
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=TOKENS,
        do_sample=False,
        num_beams=1,
        **inputs,
    )
    return hf_families.padded(written[:, prompt.shape[1] :].numpy(), TOKENS, EOS, 0)


def _llava_theirs(model, batch):
    import torch

    config, patches = model.config, (batch.images.shape[1] // model.config.vision_config.patch_size) ** 2
    images, _, _ = batch.tensors()
    mask = np.maximum(batch.mask, np.arange(batch.text.shape[1]) < _PROMPT)
    ids = _with_images(batch.text, _PLACES, config.image_token_index, patches)
    real = _with_images(mask, _PLACES, True, patches)
    logits = model(
        input_ids=torch.from_numpy(ids.astype(np.int64)),
        attention_mask=torch.from_numpy(real.astype(np.int64)),
        pixel_values=images,
    ).logits.numpy()
    # The token in whose place the image stands is scored by its last one.
    columns = [[t if t < column else t + patches - 1 for t in range(batch.text.shape[1])] for column in _PLACES]
    logits = np.take_along_axis(logits, np.array(columns)[..., None], axis=1)
    prompt = torch.from_numpy(_with_images(batch.text[:, :_PROMPT], _PLACES, config.image_token_index, patches))
    ids = _generate(model, prompt.long(), images)
    return dict(logits=_scaled(logits, mask), ids=ids)


def _llava_ours(opened, batch):
    mask = np.maximum(batch.mask, np.arange(batch.text.shape[1]) < _PROMPT)
    text = jnp.asarray(_placed(batch.text, opened.config.model.image_id))
    return _written(opened, batch, text, mask)


def _written(opened, batch, text, mask):
    image = opened.module.encode_image(batch.images)
    logits = np.asarray(opened.module.caption_logits(image, text, jnp.asarray(mask)))
    prompt = text[:, :_PROMPT]
    real = jnp.ones(prompt.shape, bool)
    ids = hf_families.write_greedily(opened.module, batch.images, prompt, real, TOKENS, EOS, 0)
    return dict(logits=_scaled(logits, mask), ids=ids)


def _with_question(batch):
    """Texts whose first tokens are a question, and which tokens are real."""
    text = np.array(batch.text)
    text[:, _PROMPT - 1] = NEWLINE
    return text, np.maximum(batch.mask, np.arange(text.shape[1]) < _PROMPT)


def _paligemma_theirs(model, batch):
    import torch

    config, patches = model.config, (batch.images.shape[1] // model.config.vision_config.patch_size) ** 2
    images, _, _ = batch.tensors()
    text, mask = _with_question(batch)
    tokens = lambda x: torch.from_numpy(x.astype(np.int64))
    ids = _with_images(text, [None] * BATCH, config.image_token_index, patches)
    real = _with_images(mask, [None] * BATCH, True, patches)
    types = np.arange(ids.shape[1])[None] >= patches + _PROMPT
    logits = model(
        input_ids=tokens(ids),
        attention_mask=tokens(real),
        token_type_ids=tokens(np.broadcast_to(types, ids.shape)),
        pixel_values=images,
    ).logits.numpy()[:, patches:]
    prompt = tokens(ids[:, : patches + _PROMPT])
    ids = _generate(model, prompt, images, token_type_ids=torch.zeros_like(prompt))
    return dict(logits=_scaled(logits, mask), ids=ids)


def _paligemma_ours(opened, batch):
    text, mask = _with_question(batch)
    return _written(opened, batch, jnp.asarray(text), mask)


def _blip2(rng):
    import transformers

    vision, vocabulary = _vision(rng), int(rng.integers(12, 50))
    every, heads, queries = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 3])), int(rng.integers(2, 6))
    qformer = hf_families.layers(rng) | dict(cross_attention_frequency=every)
    qformer |= dict(num_hidden_layers=every * int(rng.integers(1, 3)), encoder_hidden_size=vision["hidden_size"])
    text = dict(
        vocab_size=vocabulary,
        hidden_size=heads * int(rng.choice([4, 6])),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        ffn_dim=int(rng.integers(5, 30)),
        max_position_embeddings=int(rng.integers(queries + 12, 40)),
        activation_function=str(rng.choice(["relu", "gelu"])),
        tie_word_embeddings=bool(rng.integers(2)),
        **dict(bos_token_id=2, eos_token_id=EOS, pad_token_id=1),
    )
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=transformers.OPTConfig(**text),
        num_query_tokens=queries,
        image_token_index=vocabulary - 1,
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return transformers.Blip2ForConditionalGeneration(config), _shape(vision, vocabulary - 1)


def _blip2_theirs(model, batch):
    import torch

    queries, image_id = model.config.num_query_tokens, model.config.image_token_index
    images, _, _ = batch.tensors()
    mask = np.maximum(batch.mask, np.arange(batch.text.shape[1]) < _PROMPT)
    tokens = lambda x: torch.from_numpy(_with_images(*x, queries).astype(np.int64))
    first = [None] * BATCH
    ids, real = tokens((batch.text, first, image_id)), tokens((mask, first, True))
    logits = model(input_ids=ids, attention_mask=real, pixel_values=images).logits.numpy()[:, queries:]
    prompt = ids[:, : queries + _PROMPT]
    ids = _generate(model, prompt, images)
    return dict(logits=_scaled(logits, mask), ids=ids)


def _blip2_ours(opened, batch):
    mask = np.maximum(batch.mask, np.arange(batch.text.shape[1]) < _PROMPT)
    return _written(opened, batch, batch.text, mask)


CASES = {
    "blip2": Case("Blip2ForConditionalGeneration", _blip2, _blip2_theirs, _blip2_ours, ("answer", "caption")),
    "llava": Case("LlavaForConditionalGeneration", _llava, _llava_theirs, _llava_ours, ("answer",)),
    "paligemma": Case("PaliGemmaForConditionalGeneration", _paligemma, _paligemma_theirs, _paligemma_ours, ("answer",)),
}
