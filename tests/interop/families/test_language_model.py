"""LLaVA's, PaliGemma's and BLIP-2's published configs: what they leave out is their classes' default."""

import math
from pathlib import Path

import pytest

from mmjax.interop import param_translation
from mmjax.interop.families import family, table

# The fields of the files on the Hub that are read, and the parameters that the models' pages count.
LLAVA = dict(
    model_type="llava",
    image_token_index=32000,
    projector_hidden_act="gelu",
    vision_feature_layer=-2,
    vision_feature_select_strategy="default",
    text_config=dict(model_type="llama", max_position_embeddings=4096, rms_norm_eps=1e-05, vocab_size=32064),
    vision_config=dict(
        model_type="clip_vision_model",
        hidden_size=1024,
        image_size=336,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        patch_size=14,
    ),
)
PALIGEMMA = dict(
    model_type="paligemma",
    image_token_index=257152,
    text_config=dict(
        model_type="gemma",
        hidden_size=2048,
        intermediate_size=16384,
        num_attention_heads=8,
        num_hidden_layers=18,
        num_key_value_heads=1,
        vocab_size=257216,
    ),
    vision_config=dict(
        model_type="siglip_vision_model",
        hidden_size=1152,
        intermediate_size=4304,
        num_attention_heads=16,
        num_hidden_layers=27,
        patch_size=14,
        vision_use_head=False,
    ),
)


BLIP2 = dict(
    model_type="blip-2",
    architectures=["Blip2ForConditionalGeneration"],
    image_token_index=50265,
    num_query_tokens=32,
    qformer_config=dict(model_type="blip_2_qformer"),
    text_config=dict(
        model_type="opt",
        activation_function="relu",
        bos_token_id=2,
        eos_token_id=50118,
        ffn_dim=10240,
        hidden_size=2560,
        num_attention_heads=32,
        num_hidden_layers=32,
        vocab_size=50304,
        word_embed_proj_dim=2560,
    ),
    vision_config=dict(model_type="blip_2_vision_model"),
)


@pytest.mark.parametrize(
    ("config", "parameters", "activations"),
    [
        pytest.param(LLAVA, 7_063_427_072, ("quick_gelu", "silu"), id="llava-1.5-7b"),
        pytest.param(PALIGEMMA, 2_923_466_480, ("gelu_tanh", "gelu_tanh"), id="paligemma-3b-224"),
        # Of OPT's positions the two rows in front are nobody's.
        pytest.param(BLIP2, 3_744_761_856 - 2 * 2560, ("gelu", "relu"), id="blip2-opt-2.7b"),
    ],
)
def test_published_configs(config, parameters, activations):
    form = table.of_config(config, Path("config.json"))
    settings = family.read_settings(form, config, Path("config.json"))
    shapes = param_translation.param_shapes(settings)
    assert sum(map(math.prod, shapes.values())) == parameters
    assert (settings["image"]["activation"], settings["text"]["activation"]) == activations
    rows = param_translation.select_rows(form.table(settings), shapes, form.name)
    assert len(param_translation.their_shapes(rows, shapes)) > 600
