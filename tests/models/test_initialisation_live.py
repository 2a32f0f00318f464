"""Fresh parameters against fresh models of open_clip, timm, transformers and PyTorch, parameter by parameter."""

import functools
import json

import numpy as np
import pytest
from scipy import stats

from tests.helpers.distributions import assert_alike, assert_drawn
from tests.helpers.torch_fusion import _embeddings, _layer, _mlm_head, bert_params
from tests.helpers.torch_writers import Weights, coca_params, gpt2_params, stacked, weights_of
from tests.models.test_initialisation import flat, fresh

pytestmark = pytest.mark.full
VOCAB, CONTEXT, SIDE, PATCH, HEADS = 400, 16, 32, 8, 2
# Image width, text width, depth of both, width of the embeddings; two of each, so that a wrong exponent shows.
SIZES = [(96, 64, 4, 64), (128, 160, 2, 128)]
KV = "cross_attention/kv/kernel"
EVERY_SIZE = pytest.mark.parametrize("size", SIZES, ids=str)


def changes(size, **more):
    """Those of a tiny model's config."""
    image, text, depth, embed = size
    settings = dict(model__text__vocab_size=VOCAB, model__text__context_length=CONTEXT, model__text__eos_id=2)
    settings |= dict(model__image__image_size=SIDE, model__image__patch_size=PATCH)
    for tower, width in (("image", image), ("text", text)):
        settings |= {
            f"model__{tower}__{field}": value
            for field, value in dict(width=width, depth=depth, heads=HEADS, mlp_dim=4 * width).items()
        }
    return settings | dict(model__embed_dim=embed) | more


def without_embedding(size):
    """Of a model without a shared space."""
    settings = changes(size)
    del settings["model__embed_dim"]
    return settings


def compare(ours, theirs, but=()):
    """Every parameter, but for those that are no copy of anything there."""
    assert set(ours) - set(but) == set(theirs) - set(but)
    for path in theirs:
        if path not in but:
            assert_alike(path, ours[path], theirs[path])


def below(params, prefix):
    return {path.removeprefix(prefix): leaf for path, leaf in params.items() if path.startswith(prefix)}


@pytest.fixture(autouse=True)
def seed():
    import torch

    torch.manual_seed(0)


# -- open_clip ---------------------------------------------------------------------------------------------------------


def open_clip_configs(size):
    image, text, depth, embed = size
    vision = dict(image_size=SIDE, patch_size=PATCH, width=image, head_width=image // HEADS, layers=depth)
    words = dict(context_length=CONTEXT, vocab_size=VOCAB, width=text, heads=HEADS, layers=depth)
    return embed, vision, words


@EVERY_SIZE
def test_clip(size, tmp_path):
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    from mmjax.interop import foreign_checkpoint

    embed, vision, words = open_clip_configs(size)
    model = CLIP(embed, vision, words)
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(dict(model_cfg=dict(embed_dim=embed, vision_cfg=vision, text_cfg=words)))
    )
    save_file(
        {name: x.contiguous() for name, x in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    theirs = foreign_checkpoint.open_checkpoint(tmp_path).read(lambda _, array: array)
    compare(fresh("tiny", **changes(size), model__init="open_clip"), theirs)


@pytest.mark.parametrize("size", [(96, 64, 4, 64), (160, 160, 2, 160)], ids=str)
def test_coca(size):
    """The second size's pooler has one matrix for queries, keys and values, the first one's has three."""
    import torch
    from open_clip.coca_model import CoCa

    embed, vision, words = open_clip_configs(size)
    vision |= dict(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=9, output_tokens=True)
    words |= dict(context_length=CONTEXT)
    torch.use_deterministic_algorithms(True)  # memory that nothing is written to holds NaN
    try:
        model = CoCa(embed, words, words | dict(embed_cls=True, output_tokens=True), vision)
    finally:
        torch.use_deterministic_algorithms(False)
    theirs = flat(coca_params(weights_of(model)))
    sizes = changes(size, model__queries=9, model__pool_heads=2, model__decoder__depth=size[2])
    sizes |= dict(model__decoder__heads=HEADS, model__decoder__mlp_dim=4 * size[1])
    ours = fresh("tiny-coca", **sizes, model__init="open_clip")
    # open_clip allocates the map to words, and calls nothing that would draw it.
    assert [path for path, x in theirs.items() if np.isnan(x).any()] == ["decoder_head/kernel"]
    assert np.isnan(theirs["decoder_head/kernel"]).all()
    compare(ours, theirs, but=["decoder_head/kernel"])
    assert_drawn("decoder_head/kernel", ours["decoder_head/kernel"], stats.norm(scale=size[1] ** -0.5))


# -- timm --------------------------------------------------------------------------------------------------------------


def timm_params(width, depth):
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(SIDE, PATCH, embed_dim=width, depth=depth, num_heads=HEADS, num_classes=0)
    w = Weights(weights_of(model))

    def layer(w):
        qkv = w.dense("attn.qkv")
        return {
            "norm1": w.norm("norm1"),
            "attention": {
                "qkv": {
                    "kernel": qkv["kernel"].reshape(width, 3, HEADS, -1),
                    "bias": qkv["bias"].reshape(3, HEADS, -1),
                },
                "out": w.heads_out("attn.proj"),
            },
            "norm2": w.norm("norm2"),
            "mlp": {"fc1": w.dense("mlp.fc1"), "fc2": w.dense("mlp.fc2")},
        }

    return flat(
        {
            "patch_embed": {
                "kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
                "bias": w["patch_embed.proj.bias"],
            },
            "class_token": w["cls_token"][0, 0],
            "position_embedding": w["pos_embed"][0],
            "transformer": {"layers": stacked([layer(block) for block in w.numbered("blocks")])},
            "norm": w.norm("norm"),
        }
    )


def torch_dense(inputs, outputs):
    import torch

    return flat(Weights(weights_of(torch.nn.ModuleDict({"x": torch.nn.Linear(inputs, outputs)}))).dense("x"))


# -- BERT, GPT-2 -------------------------------------------------------------------------------------------------------


def bert_config(width, depth, **more):
    import transformers

    sizes = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=HEADS, intermediate_size=4 * width)
    return transformers.BertConfig(vocab_size=VOCAB, max_position_embeddings=CONTEXT, **sizes, **more)


@functools.lru_cache(maxsize=1)
def albef():
    sizes = changes((96, 64, 3, 48), model__fusion__depth=2, model__fusion__heads=HEADS, model__fusion__mlp_dim=256)
    return fresh("tiny-albef", **sizes, model__answers=300, model__init="albef")


def test_albef_has_timms_image_tower():
    compare(below(albef(), "image/"), timm_params(96, 3))


def test_albef_has_berts_text():
    import transformers

    text, _, _ = bert_params(weights_of(transformers.BertForPreTraining(bert_config(64, 3))))
    compare(below(albef(), "text/"), flat(text))


def test_albef_has_berts_layers_that_look_at_the_image():
    compare(below(albef(), "fusion/layers/"), flat(stacked(crossing_layers(64, 2, memory=64))), but=[KV])
    # BERT's memory is as wide as itself, ALBEF's as its image tower.
    assert_drawn(KV, albef()[f"fusion/layers/{KV}"], stats.norm(scale=0.02))


def crossing_layers(width, depth, memory):
    """Layers of Hugging Face's BERT as a decoder that looks at something."""
    import transformers

    assert width == memory
    config = bert_config(width, depth, is_decoder=True, add_cross_attention=True)
    w = Weights(weights_of(transformers.BertModel(config, add_pooling_layer=False)))
    return [_layer(block, cross="self") for block in w.numbered("encoder.layer")]


def test_albef_has_plain_linear_heads():
    params = albef()
    for name, (inputs, outputs) in dict(image_projection=(96, 48), text_projection=(64, 48)).items():
        compare(below(params, f"{name}/"), torch_dense(inputs, outputs))
    compare(below(params, "match_head/dense/"), torch_dense(64, 2))
    for layer in ("fc1", "fc2"):
        assert_drawn(layer, params[f"answer_head/{layer}/kernel"], stats.norm(scale=0.02))
        assert_drawn(layer, params[f"answer_head/{layer}/bias"], 0.0)


def test_blip_writes_with_bert():
    import transformers

    config = bert_config(96, 3, is_decoder=True, add_cross_attention=True)
    w = Weights(weights_of(transformers.BertLMHeadModel(config)))
    words = w.below("bert.embeddings.")
    text = _embeddings(words, types=False) | {"norm_embed": words.norm("LayerNorm")}
    text |= _mlm_head(w.below("cls.predictions.")) | {"head_bias": w["cls.predictions.bias"]}
    layers = [_layer(block, cross="self") for block in w.numbered("bert.encoder.layer")]
    text["transformer"] = {"layers": stacked(layers)}
    options = dict(norm="post", final_norm=False, embedding_norm=True, head="mlm")
    options = {f"model__text__{name}": value for name, value in options.items()}
    sizes = without_embedding((96, 96, 3, 0))
    params = fresh("tiny-captioner", **sizes, **options, model__init="blip")
    compare(below(params, "text/"), flat(text))
    compare(below(params, "image/"), timm_params(96, 3))


@pytest.mark.parametrize(("width", "depth"), [(64, 4), (128, 2)])
def test_the_captioner_writes_with_gpt2(width, depth):
    import transformers

    sizes = dict(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=width, n_layer=depth, n_head=HEADS)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, add_cross_attention=True))
    settings = without_embedding((width, width, depth, 0))
    params = fresh("tiny-captioner", **settings, model__init="vit_gpt2")
    compare(below(params, "text/"), flat(gpt2_params(weights_of(model))))
    compare(below(params, "image/"), timm_params(width, depth))


def test_llava():
    """CLIP's tower, a connector of two plain linear layers, GPT-2."""
    import transformers
    from open_clip.transformer import VisionTransformer

    sizes = dict(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=96, n_layer=3, n_head=HEADS)
    settings = without_embedding((64, 96, 3, 0))
    params = fresh("tiny-prefix_lm", **settings, model__init="llava")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    compare(below(params, "text/"), flat(gpt2_params(weights_of(model))))
    compare(below(params, "connector/fc1/"), torch_dense(64, 96))
    compare(below(params, "connector/fc2/"), torch_dense(96, 96))
    tower = Weights(weights_of(VisionTransformer(SIDE, PATCH, 64, 3, HEADS, 4.0)))
    layers = [block["mlp.c_fc.weight"].T for block in tower.numbered("transformer.resblocks")]
    assert_alike("fc1", params["image/transformer/layers/mlp/fc1/kernel"], np.stack(layers))


def test_vilt_has_timms_layers():
    no_text = ("embed_dim", "text__width", "text__depth", "text__heads", "text__mlp_dim")
    settings = {k: v for k, v in changes((96, 0, 3, 0)).items() if k.removeprefix("model__") not in no_text}
    params = fresh("tiny-vilt", **settings, model__init="vilt")
    compare(below(params, "image/"), timm_params(96, 3))


# -- the tests themselves ----------------------------------------------------------------------------------------------


def test_the_comparison_tells_rules_apart():
    """Every kind of parameter that another name's rule draws otherwise fails."""
    size = SIZES[0]
    right, wrong = (fresh("tiny", **changes(size), model__init=name) for name in ("open_clip", "openai"))
    different = set()
    for path, leaf in right.items():
        try:
            assert_alike(path, wrong[path], leaf)
        except AssertionError:
            different.add(path)
    layers = "image/transformer/layers"
    assert different == {
        "image/patch_embed/kernel",
        *(f"{layers}/{name}/kernel" for name in ("attention/qkv", "attention/out", "mlp/fc1", "mlp/fc2")),
        *(f"{tower}/transformer/layers/mlp/{name}/bias" for name in ("fc1", "fc2") for tower in ("image", "text")),
    }
