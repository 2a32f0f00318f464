"""Tiny models of other libraries that write text, with random weights, and the same weights as mmjax has them."""

import numpy as np

VOCAB, CONTEXT, WIDTH, HIDDEN, HEADS, DEPTH = 40, 7, 16, 28, 2, 2
IMAGE = dict(image_size=16, patch_size=8, width=24, depth=DEPTH, heads=HEADS, mlp_dim=32)
TEXT = dict(vocab_size=VOCAB, context_length=CONTEXT, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=HIDDEN)
GPT_TEXT = TEXT | dict(activation="gelu_tanh", head="tied", cross_every=1)
BLIP = dict(
    image=IMAGE | dict(patch_bias=True, pre_norm=False),
    text=TEXT
    | dict(norm="post", norm_eps=1e-12, embedding_norm=True, final_norm=False, head="mlm", cross_every=1, eos_id=2),
)
COCA = dict(
    embed_dim=WIDTH,
    image=IMAGE | dict(norm_eps=1e-5, mlp_dim=96),
    text=TEXT | dict(norm_eps=1e-5, mlp_dim=4 * WIDTH, eos_id=2),
    decoder=dict(depth=DEPTH, heads=HEADS, mlp_dim=4 * WIDTH),
    queries=5,
    pool_heads=2,
)
LLAVA = dict(
    image=IMAGE | dict(activation="quick_gelu"),
    text=TEXT | dict(activation="gelu_tanh", head="tied", eos_id=2, sep_id=5),
    connector="mlp2x_gelu",
    feature_layer=-2,
)
LENGTHS = np.array([CONTEXT, 4, 5])


def inputs():
    """Returns images, texts with 0 as padding, which of their tokens are real, and a memory with what is real of it."""
    rng = np.random.default_rng(0)
    mask = np.arange(CONTEXT) < LENGTHS[:, None]
    text = np.where(mask, rng.integers(1, VOCAB, mask.shape), 0).astype(np.int32)
    images = rng.standard_normal((3, 16, 16, 3)).astype(np.float32)
    memory = rng.standard_normal((3, 6, WIDTH)).astype(np.float32)
    return images, text, mask, memory, np.arange(6) < np.array([6, 2, 4])[:, None]


# -- PyTorch: models and what they compute -----------------------------------------------------------------------------


def randomised(model, std=0.3):
    """Random weights that half precision holds exactly, so that a file of them is small."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = std * torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1 and name.endswith("weight"):
                values += 1.0  # of a layer norm
            weight.copy_(values.half().float())
    return model.eval()


def weights_of(model):
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def tensors():
    """The inputs as PyTorch wants them."""
    import torch

    images, text, *rest = inputs()
    return [torch.from_numpy(x) for x in (images.transpose(0, 3, 1, 2).copy(), text.astype(np.int64), *rest)]


def blip():
    """Hugging Face's BLIP: the model and what it computes."""
    import torch
    import transformers

    layers = dict(num_hidden_layers=DEPTH, num_attention_heads=HEADS)
    text = layers | dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=HIDDEN, encoder_hidden_size=24)
    text |= dict(max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2, sep_token_id=2, pad_token_id=0)
    vision = layers | dict(hidden_size=24, intermediate_size=32, image_size=16, patch_size=8)
    model = transformers.BlipForConditionalGeneration(transformers.BlipConfig(text_config=text, vision_config=vision))
    randomised(model)
    images, ids, mask, _, _ = tensors()
    with torch.no_grad():
        out = model(pixel_values=images, input_ids=ids, attention_mask=mask.long())
    return model, dict(tokens=out.last_hidden_state.numpy(), logits=out.logits.numpy())


def gpt2():
    """Hugging Face's GPT-2 with cross-attention: the model and what it computes."""
    import torch
    import transformers

    model = randomised(transformers.GPT2LMHeadModel(gpt2_config(add_cross_attention=True)))
    _, ids, mask, memory, real = tensors()
    with torch.no_grad():
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            encoder_hidden_states=memory,
            encoder_attention_mask=real.long(),
        )
    return model, dict(logits=out.logits.numpy())


def gpt2_config(**changes):
    import transformers

    sizes = dict(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_inner=HIDDEN, n_layer=DEPTH, n_head=HEADS)
    return transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, **changes)


def llava(sees, text):
    """Hugging Face's CLIP, LLaVA projector and GPT-2 in a row: their weights, and logits at the text.

    Args:
      sees: [batch, tokens, tokens] bool, which tokens (of the image, then of the text) each one sees.
      text: [batch, CONTEXT] token ids.
    """
    import torch
    import transformers
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    vision = dict(num_hidden_layers=DEPTH, num_attention_heads=HEADS, hidden_size=24, intermediate_size=32)
    vision = transformers.CLIPVisionConfig(**vision, image_size=16, patch_size=8, hidden_act="quick_gelu")
    language = gpt2_config()
    parts = {
        "vision.": transformers.CLIPVisionModel(vision),
        "projector.": LlavaMultiModalProjector(transformers.LlavaConfig(vision_config=vision, text_config=language)),
        "lm.": transformers.GPT2LMHeadModel(language),
    }
    weights = {prefix + key: x for prefix, part in parts.items() for key, x in weights_of(randomised(part)).items()}
    tower, projector, lm = parts.values()
    images, ids = tensors()[0], torch.from_numpy(text.astype(np.int64))
    with torch.no_grad():
        features = tower(pixel_values=images, output_hidden_states=True).hidden_states[-2][:, 1:]
        # GPT-2 gives every token a position: what it adds to image tokens is taken away before.
        prefix = projector(features) - lm.transformer.wpe.weight[0]
        embeddings = torch.cat([prefix, lm.transformer.wte(ids)], dim=1)
        positions = torch.tensor([[0] * prefix.shape[1] + list(range(CONTEXT))]).expand(len(ids), -1)
        mask = torch.zeros(sees.shape).masked_fill(torch.from_numpy(~sees), -1e9)[:, None]
        out = lm(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask).logits
    return weights, dict(logits=out[:, prefix.shape[1] :].numpy())


def coca():
    """OpenCLIP's CoCa, with its correct mask of padding: the model and what it computes."""
    import torch
    from open_clip.coca_model import CoCa

    text = dict(context_length=CONTEXT, vocab_size=VOCAB, width=WIDTH, heads=HEADS, layers=DEPTH)
    vision = dict(image_size=16, patch_size=8, width=24, head_width=12, layers=DEPTH, attentional_pool=True)
    vision |= dict(attn_pooler_heads=2, attn_pooler_queries=5, output_tokens=True)
    model = randomised(CoCa(WIDTH, text, text | dict(embed_cls=True, output_tokens=True), vision))
    model.text.correct_cls_mask = True
    images, ids, *_ = tensors()
    with torch.no_grad():
        out = model(images, ids, output_labels=False)
    return model, dict(
        image=out["image_features"].numpy(), text=out["text_features"].numpy(), logits=out["logits"].numpy()
    )


# -- Their weights in mmjax's layout -----------------------------------------------------------------------------------


def stacked(layers):
    """One tree of stacked leaves from a list of equal trees."""
    if isinstance(layers[0], dict):
        return {key: stacked([layer[key] for layer in layers]) for key in layers[0]}
    return np.stack(layers)


class Weights:
    """Weights by name; a part below a prefix has the same methods."""

    def __init__(self, arrays, prefix=""):
        self.arrays, self.prefix = arrays, prefix

    def __getitem__(self, name):
        return np.asarray(self.arrays[self.prefix + name], np.float32)

    def below(self, prefix):
        return Weights(self.arrays, self.prefix + prefix)

    def numbered(self, name):
        """Those of every layer of a list."""
        prefix = f"{self.prefix}{name}."
        count = len({key.removeprefix(prefix).split(".")[0] for key in self.arrays if key.startswith(prefix)})
        return [Weights(self.arrays, f"{prefix}{i}.") for i in range(count)]

    def matrix(self, name, transposed=True):
        """[in, out]; `torch.nn.Linear` has it the other way round, GPT-2 does not."""
        return self[name + ".weight"].T if transposed else self[name + ".weight"]

    def dense(self, name, transposed=True):
        return {"kernel": self.matrix(name, transposed), "bias": self[name + ".bias"]}

    def norm(self, name):
        return {"scale": self[name + ".weight"], "bias": self[name + ".bias"]}

    def heads_out(self, name, transposed=True):
        dense = self.dense(name, transposed)
        return {"kernel": dense["kernel"].reshape(HEADS, -1, dense["kernel"].shape[1]), "bias": dense["bias"]}


def split_heads(kernel, bias, parts):
    """[D, parts * H * K] -> [D, parts, H, K]; without the axis of parts where there is one of them."""
    kernel, bias = kernel.reshape(len(kernel), parts, HEADS, -1), bias.reshape(parts, HEADS, -1)
    return {"kernel": kernel, "bias": bias} if parts > 1 else {"kernel": kernel[:, 0], "bias": bias[0]}


def joined(w, *names):
    """Several linear layers with the same input as one."""
    kernel = np.concatenate([w.matrix(name) for name in names], axis=1)
    return split_heads(kernel, np.concatenate([w[name + ".bias"] for name in names]), len(names))


def blip_params(arrays):
    w = Weights(arrays)
    vision, decoder = w.below("vision_model."), w.below("text_decoder.")

    def image_layer(w):
        qkv = w.dense("self_attn.qkv")
        return {
            "norm1": w.norm("layer_norm1"),
            "attention": {"qkv": split_heads(*qkv.values(), 3), "out": w.heads_out("self_attn.projection")},
            "norm2": w.norm("layer_norm2"),
            "mlp": {"fc1": w.dense("mlp.fc1"), "fc2": w.dense("mlp.fc2")},
        }

    def text_layer(w):
        return {
            "attention": {
                "qkv": joined(w.below("attention.self."), "query", "key", "value"),
                "out": w.heads_out("attention.output.dense"),
            },
            "norm1": w.norm("attention.output.LayerNorm"),
            "cross_attention": {
                "q": joined(w.below("crossattention.self."), "query"),
                "kv": joined(w.below("crossattention.self."), "key", "value"),
                "out": w.heads_out("crossattention.output.dense"),
            },
            "norm_cross": w.norm("crossattention.output.LayerNorm"),
            "mlp": {"fc1": w.dense("intermediate.dense"), "fc2": w.dense("output.dense")},
            "norm2": w.norm("output.LayerNorm"),
        }

    image = {
        "patch_embed": {
            "kernel": vision["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),
            "bias": vision["embeddings.patch_embedding.bias"],
        },
        "class_token": vision["embeddings.class_embedding"][0, 0],
        "position_embedding": vision["embeddings.position_embedding"][0],
        "transformer": {"layers": stacked([image_layer(weights) for weights in vision.numbered("encoder.layers")])},
        "norm": vision.norm("post_layernorm"),
    }
    bert, head = decoder.below("bert."), decoder.below("cls.predictions.")
    text = {
        "token_embedding": bert["embeddings.word_embeddings.weight"],
        "position_embedding": bert["embeddings.position_embeddings.weight"],
        "norm_embed": bert.norm("embeddings.LayerNorm"),
        "transformer": {"layers": stacked([text_layer(weights) for weights in bert.numbered("encoder.layer")])},
        "head_dense": head.dense("transform.dense"),
        "head_norm": head.norm("transform.LayerNorm"),
        "head_bias": head["bias"],
    }
    return {"image": image, "text": text}


def gpt2_params(arrays, prefix="transformer."):
    w = Weights(arrays, prefix)

    def layer(w):
        dense = lambda name: w.dense(name, transposed=False)
        self_attention = {
            "norm1": w.norm("ln_1"),
            "attention": {
                "qkv": split_heads(*dense("attn.c_attn").values(), 3),
                "out": w.heads_out("attn.c_proj", transposed=False),
            },
            "norm2": w.norm("ln_2"),
            "mlp": {"fc1": dense("mlp.c_fc"), "fc2": dense("mlp.c_proj")},
        }
        if w.prefix + "ln_cross_attn.weight" not in arrays:
            return self_attention
        return self_attention | {
            "norm_cross": w.norm("ln_cross_attn"),
            "cross_attention": {
                "q": split_heads(*dense("crossattention.q_attn").values(), 1),
                "kv": split_heads(*dense("crossattention.c_attn").values(), 2),
                "out": w.heads_out("crossattention.c_proj", transposed=False),
            },
        }

    return {
        "token_embedding": w["wte.weight"],
        "position_embedding": w["wpe.weight"],
        "transformer": {"layers": stacked([layer(weights) for weights in w.numbered("h")])},
        "norm": w.norm("ln_f"),
    }


def llava_params(arrays):
    w = Weights(arrays, "vision." + ("vision_model." if "vision.vision_model.pre_layrnorm.weight" in arrays else ""))

    def layer(w):
        return {
            "norm1": w.norm("layer_norm1"),
            "attention": {
                "qkv": joined(w.below("self_attn."), "q_proj", "k_proj", "v_proj"),
                "out": w.heads_out("self_attn.out_proj"),
            },
            "norm2": w.norm("layer_norm2"),
            "mlp": {"fc1": w.dense("mlp.fc1"), "fc2": w.dense("mlp.fc2")},
        }

    projector = Weights(arrays, "projector.")
    return {
        "image": {
            "patch_embed": {"kernel": w["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0)},
            "class_token": w["embeddings.class_embedding"],
            "position_embedding": w["embeddings.position_embedding.weight"],
            "norm_pre": w.norm("pre_layrnorm"),
            "transformer": {"layers": stacked([layer(weights) for weights in w.numbered("encoder.layers")])},
            "norm": w.norm("post_layernorm"),
        },
        "connector": {"fc1": projector.dense("linear_1"), "fc2": projector.dense("linear_2")},
        "text": gpt2_params(arrays, "lm.transformer."),
    }


def coca_params(arrays):
    w = Weights(arrays)
    visual, text, decoder = w.below("visual."), w.below("text."), w.below("text_decoder.")

    def block(w):
        return {
            "norm1": w.norm("ln_1"),
            "attention": {
                "qkv": split_heads(w["attn.in_proj_weight"].T, w["attn.in_proj_bias"], 3),
                "out": w.heads_out("attn.out_proj"),
            },
            "norm2": w.norm("ln_2"),
            "mlp": {"fc1": w.dense("mlp.c_fc"), "fc2": w.dense("mlp.c_proj")},
        }

    def crossing(w):
        kernel, bias = w["attn.in_proj_weight"].T, w["attn.in_proj_bias"]
        width = len(kernel)
        return {
            "norm_cross": w.norm("ln_1"),
            "norm_memory": w.norm("ln_1_kv"),
            "cross_attention": {
                "q": split_heads(kernel[:, :width], bias[:width], 1),
                "kv": split_heads(kernel[:, width:], bias[width:], 2),
                "out": w.heads_out("attn.out_proj"),
            },
            "norm_cross_mlp": w.norm("ln_2"),
            "cross_mlp": {"fc1": w.dense("mlp.c_fc"), "fc2": w.dense("mlp.c_proj")},
        }

    tower = lambda w: {"layers": stacked([block(weights) for weights in w.numbered("transformer.resblocks")])}
    layers = zip(decoder.numbered("resblocks"), decoder.numbered("cross_attn"), strict=True)
    both = [block(layer) | crossing(cross) for layer, cross in layers]
    pool = visual.below("attn_pool.")
    embed, bias = pool["query"].shape[1], pool["attn.in_proj_bias"]
    if "visual.attn_pool.attn.in_proj_weight" in arrays:  # an image tower as wide as the embeddings
        query, key, value = np.split(pool["attn.in_proj_weight"], 3)
    else:
        query, key, value = (pool[f"attn.{name}_proj_weight"] for name in "qkv")
    keys_values = np.concatenate([key.T, value.T], axis=1)
    return {
        "image": {
            "patch_embed": {"kernel": visual["conv1.weight"].transpose(2, 3, 1, 0)},
            "class_token": visual["class_embedding"],
            "position_embedding": visual["positional_embedding"],
            "norm_pre": visual.norm("ln_pre"),
            "transformer": tower(visual),
        },
        "image_pool": {
            "probe": pool["query"][None],
            "norm_query": pool.norm("ln_q"),
            "norm_memory": pool.norm("ln_k"),
            "attention": {
                "q": split_heads(query.T, bias[:embed], 1),
                "kv": split_heads(keys_values, bias[embed:], 2),
                "out": pool.heads_out("attn.out_proj"),
            },
        },
        "image_norm": visual.norm("ln_post"),
        "image_projection": {"kernel": visual["proj"]},
        "text": {
            "token_embedding": text["token_embedding.weight"],
            "position_embedding": text["positional_embedding"],
            "transformer": tower(text),
        },
        "text_class_token": text["cls_emb"],
        "text_norm": text.norm("ln_final"),
        "text_projection": {"kernel": text["text_projection"]},
        "decoder": {"layers": stacked(both)},
        "decoder_norm": decoder.norm("ln_final"),
        "decoder_head": {"kernel": decoder["text_projection"]},
        "logit_scale": w["logit_scale"],
    }
