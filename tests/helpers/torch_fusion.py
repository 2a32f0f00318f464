"""Tiny models of PyTorch's that fuse by attention, with random weights, and the same weights as mmjax has them."""

import numpy as np

from tests.helpers import torch_writers
from tests.helpers.torch_writers import HEADS, Weights, joined, split_heads, stacked

VOCAB, CONTEXT, WIDTH, HIDDEN, DEPTH = 40, 7, 16, 28, 2
SIDE, PATCH, TOWER, EMBED, QUERIES, ANSWERS, DEC = 16, 8, 24, 12, 3, 5, 39
LAYERS = dict(heads=HEADS, mlp_dim=HIDDEN)
IMAGE = dict(image_size=SIDE, patch_size=PATCH, width=TOWER, depth=DEPTH, norm_eps=1e-6, **LAYERS)
TEXT = dict(vocab_size=VOCAB, context_length=CONTEXT, norm_eps=1e-12, embedding_norm=True, token_types=2)
BERT = TEXT | LAYERS | dict(width=WIDTH, depth=DEPTH, norm="post", final_norm=False)
ALBEF = dict(
    embed_dim=EMBED,
    image=IMAGE | dict(patch_bias=True, pre_norm=False),
    text=BERT,
    fusion=LAYERS | dict(depth=DEPTH, norm="post", norm_eps=1e-12),
    match=True,
    mlm=True,
    answers=ANSWERS,
)
VILT = dict(image=IMAGE | dict(width=WIDTH, norm_eps=1e-12), text=TEXT, match=True, mlm=True, mim=True, answers=ANSWERS)
QFORMER = dict(
    embed_dim=EMBED,
    image=IMAGE | dict(patch_bias=True, pre_norm=False),
    text=BERT | dict(depth=4, token_types=0, cross_every=2),
    queries=QUERIES,
    match=True,
    caption=True,
    caption_id=DEC,
)


def inputs():
    """Returns images, texts with 0 as padding, which of their tokens are real, and types of tokens."""
    rng = np.random.default_rng(0)
    mask = np.arange(CONTEXT) < np.array([CONTEXT, 3, 5])[:, None]
    text = np.where(mask, rng.integers(1, VOCAB, mask.shape), 0).astype(np.int32)
    images = rng.standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)
    return images, text, mask, (np.cumsum(mask, axis=1) > 2).astype(np.int32)


# -- PyTorch: models and what they compute -----------------------------------------------------------------------------


def tensors():
    """The inputs as PyTorch wants them."""
    import torch

    images, text, mask, types = inputs()
    channels_first = images.transpose(0, 3, 1, 2).copy()
    return [torch.from_numpy(x) for x in (channels_first, text.astype(np.int64), mask, types.astype(np.int64))]


def randomised(model):
    """Random weights, small enough for outputs of a few units."""
    return torch_writers.randomised(model, std=0.2)


def _sizes(width, depth=DEPTH):
    return dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=HEADS, intermediate_size=HIDDEN)


def _dropped(**settings):
    return settings | dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def _bert():
    import transformers

    config = _dropped(vocab_size=VOCAB, max_position_embeddings=CONTEXT, **_sizes(WIDTH))
    return transformers.BertForPreTraining(transformers.BertConfig(**config))


def _vision_config():
    return _sizes(TOWER) | dict(image_size=SIDE, patch_size=PATCH)


def bert():
    """Hugging Face's BERT with its pooler and both heads: the model and what it computes."""
    import torch

    model = randomised(_bert())
    _, ids, mask, types = tensors()
    with torch.no_grad():
        out = model(ids, mask.long(), types, output_hidden_states=True)
    result = dict(tokens=out.hidden_states[-1], match=out.seq_relationship_logits, words=out.prediction_logits)
    return model, {name: x.numpy() for name, x in result.items()}


def albef():
    """ALBEF put together of Hugging Face's parts: BLIP-2's ViT, BERT, and BLIP's layers with cross-attention."""
    import torch
    import transformers
    from torch.nn import GELU, LayerNorm, Linear, ModuleDict, Sequential
    from transformers.models.blip import modeling_blip_text

    config = transformers.BlipTextConfig(
        **_dropped(vocab_size=VOCAB, encoder_hidden_size=TOWER, is_decoder=True, **_sizes(WIDTH))
    )
    config._attn_implementation = "eager"
    model = randomised(
        ModuleDict(
            dict(
                vision_model=transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**_vision_config())),
                text=_bert(),
                fusion=modeling_blip_text.BlipTextEncoder(config),
                vision_projection=Linear(TOWER, EMBED),
                text_projection=Linear(WIDTH, EMBED),
                classifier=Sequential(
                    Linear(WIDTH, 2 * WIDTH), LayerNorm(2 * WIDTH), GELU(), Linear(2 * WIDTH, ANSWERS)
                ),
            )
        )
    )
    images, ids, mask, _ = tensors()
    normalize = torch.nn.functional.normalize
    with torch.no_grad():
        image = model["vision_model"](images).last_hidden_state
        text = model["text"].bert(ids, mask.long()).last_hidden_state
        hidden = torch.where(mask, 0.0, -1e9)[:, None, None, :]
        fused = model["fusion"](text, attention_mask=hidden, encoder_hidden_states=image).last_hidden_state
        result = dict(
            image=normalize(model["vision_projection"](image[:, 0]), dim=-1),
            text=normalize(model["text_projection"](text[:, 0]), dim=-1),
            match=model["text"].cls.seq_relationship(fused[:, 0]),
            words=model["text"].cls.predictions(fused),
            answers=model["classifier"](fused[:, 0]),
        )
    return model, {name: x.numpy() for name, x in result.items()}


def vilt():
    """Hugging Face's ViLT, for questions and for masked words, on the same layers: the model and what it computes."""
    import torch
    import transformers
    from torch.nn import ModuleDict

    config = _dropped(vocab_size=VOCAB, max_position_embeddings=CONTEXT, num_labels=ANSWERS, **_vision_config())
    config = transformers.ViltConfig(**config | dict(hidden_size=WIDTH))
    requested, masked = transformers.ViltForQuestionAnswering(config), transformers.ViltForMaskedLM(config)
    masked.vilt = requested.vilt
    masked.mlm_score.decoder.weight = requested.vilt.embeddings.text_embeddings.word_embeddings.weight
    model = randomised(ModuleDict(dict(asked=requested, masked=masked)))
    images, ids, mask, _ = tensors()
    flags = dict(input_ids=ids, attention_mask=mask.long(), pixel_values=images)
    with torch.no_grad():
        base = requested.vilt(**flags)
        result = dict(
            tokens=base.last_hidden_state[:, : CONTEXT + 1],  # its patches come in a random order
            pooled=base.pooler_output,
            answers=requested(**flags).logits,
            words=masked(**flags).logits,
        )
    return model, {name: x.numpy() for name, x in result.items()}


def qformer():
    """Hugging Face's BLIP-2 for retrieval, and BERT's head on its Q-Former: the model and what it computes."""
    import torch
    import transformers
    from torch.nn import ModuleDict

    text = _dropped(vocab_size=VOCAB, max_position_embeddings=CONTEXT, encoder_hidden_size=TOWER, **_sizes(WIDTH, 4))
    config = transformers.Blip2Config(
        vision_config=_vision_config(),
        qformer_config=text | dict(use_qformer_text_input=True),
        num_query_tokens=QUERIES,
        image_text_hidden_size=EMBED,
    )
    blip2, head = transformers.Blip2ForImageTextRetrieval(config), _bert().cls.predictions
    head.decoder.weight = blip2.embeddings.word_embeddings.weight
    model = randomised(ModuleDict(dict(blip2=blip2, head=head)))
    images, ids, mask, _ = tensors()
    flags = dict(pixel_values=images, input_ids=ids, attention_mask=mask.long())
    with torch.no_grad():
        contrast = blip2(**flags)
        match = blip2(**flags, use_image_text_matching_head=True).logits_per_image
        # Captions: queries see each other; each word the queries, itself and the words before it.
        captions = ids.clone()
        captions[:, 0] = DEC
        embeds = blip2.embeddings(captions, query_embeds=blip2.query_tokens.expand(len(ids), -1, -1))
        positions = torch.arange(QUERIES + CONTEXT)
        sees = (positions[None] < QUERIES) | ((positions[None] <= positions[:, None]) & (positions[:, None] >= QUERIES))
        sees = sees & torch.cat([torch.ones(len(ids), QUERIES, dtype=torch.bool), mask], 1)[:, None, None, :]
        image = blip2.vision_model(images).last_hidden_state
        read = blip2.qformer(
            query_embeds=embeds, query_length=QUERIES, attention_mask=sees, encoder_hidden_states=image
        )
        result = dict(
            image=contrast.image_embeds,
            text=contrast.text_embeds,
            match=match,
            captions=head(read.last_hidden_state[:, QUERIES:]),
        )
    return model, {name: x.numpy() for name, x in result.items()}


# -- Their weights in mmjax's layout -----------------------------------------------------------------------------------


def _embeddings(w, types=True):
    ours = {
        "token_embedding": w["word_embeddings.weight"],
        "position_embedding": w["position_embeddings.weight"],
    }
    if types:
        ours |= {"type_embedding": w["token_type_embeddings.weight"], "norm_embed": w.norm("LayerNorm")}
    return ours


def _layer(w, attention="self", cross=None, query=False):
    """A layer of BERT; `attention` and `cross` are what the projections are called there."""
    ours = {
        "attention": {
            "qkv": joined(w.below(f"attention.{attention}."), "query", "key", "value"),
            "out": w.heads_out("attention.output.dense"),
        },
        "norm1": w.norm("attention.output.LayerNorm"),
    }
    if cross:
        ours["cross_attention"] = {
            "q": joined(w.below(f"crossattention.{cross}."), "query"),
            "kv": joined(w.below(f"crossattention.{cross}."), "key", "value"),
            "out": w.heads_out("crossattention.output.dense"),
        }
        ours["norm_cross"] = w.norm("crossattention.output.LayerNorm")
    for prefix, suffix in (("", "_query"), ("segment1_", "")) if query else (("", ""),):
        fc1, fc2 = w.dense(f"intermediate{suffix}.dense"), w.dense(f"output{suffix}.dense")
        ours[f"{prefix}mlp"] = {"fc1": fc1, "fc2": fc2}
        ours[f"{prefix}norm2"] = w.norm(f"output{suffix}.LayerNorm")
    return ours


def _mlm_head(w):
    return {
        "head_dense": w.dense("transform.dense"),
        "head_norm": w.norm("transform.LayerNorm"),
    }


def _answer_head(w):
    return {"fc1": w.dense("0"), "norm": w.norm("1"), "fc2": w.dense("3")}


def _image(w):
    def layer(w):
        return {
            "norm1": w.norm("layer_norm1"),
            "attention": {
                "qkv": split_heads(*w.dense("self_attn.qkv").values(), 3),
                "out": w.heads_out("self_attn.projection"),
            },
            "norm2": w.norm("layer_norm2"),
            "mlp": {"fc1": w.dense("mlp.fc1"), "fc2": w.dense("mlp.fc2")},
        }

    return {
        "patch_embed": _patches(w, "embeddings.patch_embedding"),
        "class_token": w["embeddings.class_embedding"][0, 0],
        "position_embedding": w["embeddings.position_embedding"][0],
        "transformer": {"layers": stacked([layer(weights) for weights in w.numbered("encoder.layers")])},
        "norm": w.norm("post_layernorm"),
    }


def _patches(w, name):
    return {"kernel": w[f"{name}.weight"].transpose(2, 3, 1, 0), "bias": w[f"{name}.bias"]}


def bert_params(arrays):
    """Those of `TextStack`, of `Pooler` and of `MatchHead`."""
    w = Weights(arrays)
    stack = _embeddings(w.below("bert.embeddings.")) | _mlm_head(w.below("cls.predictions."))
    stack["head_bias"] = w["cls.predictions.bias"]
    stack["transformer"] = {"layers": stacked([_layer(weights) for weights in w.numbered("bert.encoder.layer")])}
    return stack, {"dense": w.dense("bert.pooler.dense")}, {"dense": w.dense("cls.seq_relationship")}


def albef_params(arrays):
    w = Weights(arrays)
    text, _, match = bert_params({k.removeprefix("text."): x for k, x in arrays.items() if k.startswith("text.")})
    return {
        "image": _image(w.below("vision_model.")),
        "text": text,
        "fusion": {"layers": stacked([_layer(weights, cross="self") for weights in w.numbered("fusion.layer")])},
        "image_projection": w.dense("vision_projection"),
        "text_projection": w.dense("text_projection"),
        "logit_scale": np.float32(0),
        "match_head": match,
        "answer_head": _answer_head(w.below("classifier.")),
    }


def vilt_params(arrays):
    """Hugging Face's; its heads for matching and for pixels are of other shapes, so these are zeros."""
    w = Weights(arrays)
    base, head = w.below("asked.vilt."), w.below("masked.mlm_score.")

    def layer(w):
        return {
            "norm1": w.norm("layernorm_before"),
            "attention": {
                "qkv": joined(w.below("attention.attention."), "query", "key", "value"),
                "out": w.heads_out("attention.output.dense"),
            },
            "norm2": w.norm("layernorm_after"),
            "mlp": {"fc1": w.dense("intermediate.dense"), "fc2": w.dense("output.dense")},
        }

    zeros = lambda outputs: {
        "kernel": np.zeros((WIDTH, outputs), np.float32),
        "bias": np.zeros(outputs, np.float32),
    }
    return {
        "image": {
            "patch_embed": _patches(base, "embeddings.patch_embeddings.projection"),
            "class_token": base["embeddings.cls_token"][0, 0],
            "mask_token": np.zeros(WIDTH, np.float32),
            "position_embedding": base["embeddings.position_embeddings"][0],
            "transformer": {"layers": stacked([layer(weights) for weights in base.numbered("encoder.layer")])},
            "norm": base.norm("layernorm"),
        },
        "text": _embeddings(base.below("embeddings.text_embeddings."))
        | _mlm_head(head)
        | {"head_bias": head["decoder.bias"]},
        "modality_embedding": base["embeddings.token_type_embeddings.weight"],
        "pooler": {"dense": base.dense("pooler.dense")},
        "match_head": {"dense": zeros(2)},
        "pixel_head": zeros(3 * PATCH**2),
        "answer_head": _answer_head(w.below("asked.classifier.")),
    }


def qformer_params(arrays):
    w = Weights(arrays)
    base = w.below("blip2.")
    block = lambda i: _layer(
        base.below(f"qformer.encoder.layer.{i}."),
        "attention",
        cross=None if i % 2 else "attention",
        query=True,
    )
    units = {f"block{j}": stacked([block(2 * i + j) for i in range(2)]) for j in range(2)}
    return {
        "image": _image(base.below("vision_model.")),
        "queries": base["query_tokens"][0],
        "text": _embeddings(base.below("embeddings."), types=False)
        | _mlm_head(w.below("head."))
        | {
            "norm_embed": base.norm("qformer.layernorm"),
            "head_bias": w["head.bias"],
            "transformer": {"cross_layers": units},
        },
        "image_projection": base.dense("vision_projection"),
        "text_projection": base.dense("text_projection"),
        "logit_scale": np.float32(0),
        "match_head": {"dense": base.dense("itm_head")},
    }
