"""The models of `open_clip.list_models()`: built by the library itself, without numbers, and what they are."""

import copy
import json
import math

# The text towers that ten of the configs name on the Hub, which tests do not reach: what their config.json says.
_ROBERTA = dict(num_hidden_layers=12, num_attention_heads=12, hidden_size=768, intermediate_size=3072)
_ROBERTA |= dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
_XLM = _ROBERTA | dict(model_type="xlm-roberta", vocab_size=250_002)
_NLLB = dict(model_type="m2m_100", vocab_size=256_206, d_model=1024, encoder_attention_heads=16)
_NLLB |= dict(decoder_layers=1)  # OpenCLIP keeps the encoder
_MT5 = dict(model_type="mt5", vocab_size=250_112, d_kv=64)
HF_TEXT_TOWERS = {
    "roberta-base": _ROBERTA | dict(model_type="roberta", vocab_size=50_265),
    "xlm-roberta-base": _XLM,
    "xlm-roberta-large": _XLM
    | dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "google/mt5-base": _MT5 | dict(d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/mt5-xl": _MT5 | dict(d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "facebook/nllb-200-distilled-600M": _NLLB | dict(encoder_layers=12, encoder_ffn_dim=4096),
    "facebook/nllb-200-distilled-1.3B": _NLLB | dict(encoder_layers=24, encoder_ffn_dim=8192),
}


def build(config, folder, device="meta"):
    """OpenCLIP's own model of a config, by default without numbers.

    Args:
      config: as open_clip.get_model_config gives it.
      folder: for the config of a Hugging Face text tower.
      device: where its parameters are made.
    """
    import open_clip
    import torch

    arguments = copy.deepcopy(config)
    custom_text = arguments.pop("custom_text", False)
    text = arguments["text_cfg"]
    if "hf_model_name" in text:
        tower = folder / text["hf_model_name"].replace("/", "-")
        tower.mkdir(exist_ok=True)
        (tower / "config.json").write_text(json.dumps(HF_TEXT_TOWERS[text["hf_model_name"]]))
        text |= dict(hf_model_name=str(tower), hf_model_pretrained=False)
        custom_text = True
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    if "multimodal_cfg" in arguments:
        kind = open_clip.CoCa
    with torch.device(device):
        return kind(**arguments)


def write_shapes(path, model):
    """Writes a safetensors file of a model's names and shapes; its numbers are a hole in the file, and take no disk."""
    sizes = {"torch.float32": ("F32", 4), "torch.int64": ("I64", 8)}
    header, end = {}, 0
    for name, array in model.state_dict().items():
        kind, size = sizes[str(array.dtype)]
        start, end = end, end + size * math.prod(array.shape)
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def architecture(config):
    """What must be said of a model that is not read; None for those that are."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        return "CoCa"
    if HF_TEXT_TOWERS.get(text.get("hf_model_name"), _ROBERTA).get("model_type", "roberta") in ("mt5", "m2m_100"):
        return "Hugging Face text tower"
    words = {
        "fastvit": "FastViT",
        "vit_base_mci": "MobileCLIP",
        "vitamin": "ViTamin",
        "swin": "Swin",
        "vit_relpos": "relative positions",
    }
    name = vision.get("timm_model_name", "")
    return next((word for start, word in words.items() if name.startswith(start)), None)


def settings_of(model):
    """What a live model of OpenCLIP's computes, in the words of mmjax's settings."""
    visual, text = model.visual, getattr(model, "text", model)
    return dict(
        embed_dim=_embed_dim(visual),
        has_bias=model.logit_bias is not None,
        image=_image(visual),
        text=_hf_text(text) if hasattr(text, "pooler") else _text(text),
    )


def _hf_text(text):
    config, projections = text.transformer.config, {"Identity": "none", "Linear": "linear", "Sequential": "mlp"}
    is_roberta = "roberta" in config.model_type
    before = config.pad_token_id + 1 if is_roberta else 0
    return dict(
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings - before,
        positions="after_pad" if is_roberta else "first",
        pad_id=config.pad_token_id,
        causal=False,
        mask_padding=True,
        pool={"MeanPooler": "mean"}[type(text.pooler).__name__],
        pooler=False,
        projection=projections[type(text.proj).__name__],
        norm="post",
        norm_eps=config.layer_norm_eps,
        token_types=config.type_vocab_size,
        embedding_norm=True,
        final_norm=False,
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        mlp_dim=config.intermediate_size,
        activation={"gelu": "gelu"}[config.hidden_act],
    )


def _text(text):
    projection = text.text_projection
    kinds = {"NoneType": "none", "Linear": "bias", "Parameter": "linear"}
    return dict(
        vocab_size=text.token_embedding.weight.shape[0],
        context_length=text.positional_embedding.shape[0],
        causal=text.attn_mask is not None,
        mask_padding=False,
        projection=kinds[type(projection).__name__],
        norm_eps=text.ln_final.eps,
        **_pooling(text),
        **_layers(text.transformer),
    )


def _image(visual):
    if hasattr(visual, "attnpool"):
        return _resnet(visual)
    if hasattr(getattr(visual, "trunk", None), "stages"):
        return _convnext(visual)
    return _timm(visual) if hasattr(visual, "trunk") else _vision(visual)


def _resnet(visual):
    stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    return dict(
        kind="resnet",
        image_size=visual.image_size,
        blocks=tuple(map(len, stages)),
        stem_width=visual.conv3.out_channels,
        pool="attention",
        pool_norm=False,
        pool_heads=visual.attnpool.num_heads,
        projection="bias",
    )


def _convnext(visual):
    trunk, (side, _) = visual.trunk, visual.image_size
    first = trunk.stages[0].blocks[0]
    eps = {layer.eps for layer in (first.norm, trunk.stem[1], trunk.head.norm)}
    return dict(
        kind="convnext",
        image_size=side,
        blocks=tuple(len(stage.blocks) for stage in trunk.stages),
        widths=tuple(len(stage.blocks[0].gamma) for stage in trunk.stages),
        activation=_activation(first.mlp.act),
        norm_eps=eps.pop(),
        pool="mean",
        pool_norm=True,
        pool_heads=1,
        projection="mlp" if hasattr(visual.head, "mlp") else "linear",
    )


def _embed_dim(visual):
    if hasattr(visual, "attnpool"):
        return visual.output_dim
    if not hasattr(visual, "trunk"):
        return visual.proj.shape[1]
    if len(visual.head):
        return visual.head.mlp.fc2.out_features if hasattr(visual.head, "mlp") else visual.head.proj.out_features
    return getattr(visual.trunk.head, "out_features", visual.trunk.num_features)


def _pooling(text):
    pool = text.pool_type if hasattr(text, "pool_type") else text.text_pool_type
    if pool == "last":
        return dict(pool="last")
    end = text.eos_id if hasattr(text, "eos_id") else text.text_eos_id
    return dict(pool="eos", eos_id={"argmax": -1, "eos": end}[pool])


def _activation(layer):
    if type(layer).__name__ == "GELUTanh" or getattr(layer, "approximate", "none") == "tanh":
        return "gelu_tanh"
    return {"GELU": "gelu", "QuickGELU": "quick_gelu", "SiLU": "silu"}[type(layer).__name__]


def _layers(transformer):
    block = transformer.resblocks[0]
    assert block.ln_1.eps == block.ln_2.eps
    scale = getattr(block.ls_1, "gamma", None)
    return dict(
        block=None if scale is None else dict(layer_scale=1e-4),  # as the one published model starts
        width=transformer.width,
        depth=len(transformer.resblocks),
        heads=block.attn.num_heads,
        mlp_dim=block.mlp.c_fc.out_features,
        activation=_activation(block.mlp.gelu),
    )


def _vision(visual):
    (side, _), (patch, _) = visual.image_size, visual.patch_size
    return dict(
        image_size=side,
        patch_size=patch,
        class_token=True,
        patch_bias=visual.conv1.bias is not None,
        pre_norm=type(visual.ln_pre).__name__ != "Identity",
        pool={"tok": "cls", "avg": "mean"}[visual.pool_type],
        final_norm=not (visual.final_ln_after_pool and visual.pool_type == "avg"),
        pool_norm=visual.final_ln_after_pool and visual.pool_type == "avg",
        projection="linear",
        norm_eps=visual.ln_post.eps,
        **_layers(visual.transformer),
    )


def _timm(visual):
    trunk, (side, _) = visual.trunk, visual.image_size
    block, pool, norms = trunk.blocks[0], getattr(trunk, "attn_pool", None), {trunk.norm.eps}
    mlp, bias = block.mlp, getattr(trunk.head, "bias", None) is not None
    assert type(trunk.fc_norm).__name__ == "Identity"
    tower = dict(heads=block.attn.num_heads, mlp_dim=mlp.fc2.in_features, activation=_activation(mlp.act))
    pool_heads = pool_mlp = None
    if pool is not None:
        assert _activation(pool.mlp.act) == tower["activation"]
        norms.add(pool.norm.eps)
        # None where they are the tower's.
        pool_heads = pool.num_heads
        pool_mlp = pool.mlp.fc1.out_features
    assert len(norms | {block.norm1.eps, block.norm2.eps}) == 1
    return tower | dict(
        image_size=side,
        patch_size=trunk.patch_embed.patch_size[0],
        class_token=trunk.cls_token is not None,
        patch_bias=trunk.patch_embed.proj.bias is not None,
        pre_norm=type(trunk.norm_pre).__name__ != "Identity",
        pool={"token": "cls", "map": "map", "avg": "mean"}[trunk.global_pool],
        pool_heads=pool_heads,
        pool_mlp_dim=pool_mlp,
        projection="bias" if bias else "linear" if len(visual.head) else "none",
        norm_eps=trunk.norm.eps,
        width=trunk.embed_dim,
        depth=len(trunk.blocks),
        block=_timm_block(trunk, block),
    )


def _timm_block(trunk, block):
    """What a layer of timm's has otherwise than CLIP's."""
    attention, rope = block.attn, getattr(trunk, "rope", None)
    is_eva = type(attention).__name__ == "EvaAttention"
    scale = getattr(getattr(block, "ls1", None), "gamma", None)
    fields = dict(
        key_bias=not is_eva,
        qkv_bias=is_eva or attention.qkv.bias is not None,
        attention_norm=type(attention.norm).__name__ == "LayerNorm",
        mlp_gate=type(block.mlp).__name__ == "SwiGLU",
        mlp_norm=type(block.mlp.norm).__name__ == "LayerNorm",
        res_post_norm=type(block).__name__ == "EvaBlockPostNorm",
        layer_scale=0.0 if scale is None else 1e-6,  # as the one listed model starts
    )
    if rope is None:
        return fields
    assert rope.ref_feat_shape[0] == rope.ref_feat_shape[1] and not rope.in_pixels and rope.temperature == 10_000
    return fields | dict(
        rope="interleaved",
        rope_grid=rope.ref_feat_shape[0],
        rope_offset=float(rope.grid_offset),
        rope_axes=rope.grid_indexing,
    )
