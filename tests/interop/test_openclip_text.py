"""OpenCLIP's models with a text tower of BERT's kind."""

import json
import shutil

import numpy as np
import pytest

import mmjax
from campaigns import multilingual_clips, two_languages
from mmjax.errors import UserError
from mmjax.interop import bert_towers, foreign_checkpoint, named_models, openclip_text
from mmjax.interop.tensor_files import Tensors


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 2])
def test_open_clips_own_models(seed, tmp_path):
    """The others are in `campaigns.multilingual_clips`."""
    for difference in multilingual_clips.differences(seed, tmp_path).values():
        assert difference <= multilingual_clips.TOLERANCE


@pytest.mark.full
def test_a_file_without_its_configs(tmp_path):
    """What shapes do not tell is asked for."""
    from safetensors.torch import save_file

    model, config, tower = multilingual_clips.draw(2, tmp_path)
    images, ids = multilingual_clips.inputs(2, config, tower)
    folder = tmp_path / "alone"
    folder.mkdir()
    file = folder / "model.safetensors"
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, file)
    with pytest.raises(UserError, match=r"shapes do not tell .*text.heads \(no published text tower has width"):
        mmjax.load(file)
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "alone" / "model.safetensors", _answers(config, tower))
    assert opened.settings["text"]["positions"] == ("first" if tower["type_vocab_size"] == 2 else "after_pad")
    assert opened.text_length == 77
    shutil.rmtree(folder)


def _answers(config, tower):
    image = {"image_size": 16, "heads": config["vision_cfg"]["width"] // 8, "norm_eps": 1e-5, "activation": "gelu"}
    text = dict(heads=tower["num_attention_heads"], norm_eps=tower["layer_norm_eps"], activation="gelu", pool="mean")
    named = {"image": image, "text": text}
    return {f"{part}.{field}": value for part, fields in named.items() for field, value in fields.items()}


@pytest.mark.full
def test_from_open_clip_to_training_in_two_languages_and_back(tmp_path):
    """What it learns in more steps `campaigns.two_languages` tells."""
    reached, difference = two_languages.run(tmp_path, seed=0, steps=6, count=40)
    assert sorted(reached) == ["de image", "de text", "en image", "en text"]
    assert difference <= two_languages.TOLERANCE


@pytest.mark.parametrize(
    "name, width, vocab_size, activation",
    [
        ("roberta-ViT-B-32", 768, 50_265, "quick_gelu"),
        ("xlm-roberta-base-ViT-B-32", 768, 250_002, "gelu"),
        ("xlm-roberta-large-ViT-H-14", 1024, 250_002, "gelu"),
    ],
)
def test_models_by_name(name, width, vocab_size, activation):
    model = named_models.find(name)
    text = model.settings["text"]
    assert (text["width"], text["vocab_size"], text["context_length"]) == (width, vocab_size, 512)
    assert (text["pad_id"], text["positions"], text["pool"], text["projection"]) == (1, "after_pad", "mean", "mlp")
    assert (text["activation"], model.settings["image"]["activation"]) == ("gelu", activation)
    assert (model.text_length, model.tokenizer) == (77, "")


CONFIG = dict(hf_model_name="xlm-roberta-base")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(hf_model_name="google/mt5-base"), "hf_model_name='google/mt5-base' is not read; of Hugging Face's text"),
        (dict(hf_model_name="../weights"), "hf_model_name='../weights' is not read"),
        (dict(hf_pooler_type="max_pooler"), "hf_pooler_type='max_pooler' is not read; mmjax reads mean_pooler"),
        (dict(hf_proj_type="deep"), "hf_proj_type='deep' is not read; mmjax reads mlp, linear"),
        (dict(hf_proj_type=None), "hf_proj_type=None, but the tower's width of 768 is not embed_dim=512"),
        (dict(some_option=1), "some_option=1 is not read"),
    ],
)
def test_configs_that_are_not_read(changes, message):
    with pytest.raises(UserError, match=message):
        openclip_text.from_config(CONFIG | changes, False, "file", embed_dim=512)


def test_older_names_of_fields():
    read = lambda **fields: openclip_text.from_config(CONFIG | fields, False, "file", embed_dim=768)
    assert read(proj="linear", pooler_type="cls_pooler") == read(hf_proj_type="linear", hf_pooler_type="cls_pooler")
    with pytest.raises(UserError, match="text_cfg.proj='mlp' is not read"):
        read(proj="mlp", hf_proj_type="linear")


def test_a_config_beside_the_weights_says_more_than_a_name(tmp_path):
    words = {"text.transformer.embeddings.word_embeddings.weight": (9, 9)}
    tensors = Tensors(tmp_path / "open_clip_model.safetensors", words, None)
    small = bert_towers.PUBLISHED["xlm-roberta-base"] | dict(hidden_size=32, num_attention_heads=2)
    (tmp_path / "config.json").write_text(json.dumps(small))
    read = lambda: openclip_text.from_config(CONFIG, False, "file", embed_dim=512, tensors=tensors)
    assert read()["width"] == 32
    (tmp_path / "config.json").write_text(json.dumps(small | dict(model_type="clip")))  # of another model
    assert read()["width"] == 768


def test_settings_that_openclip_does_not_have():
    text = openclip_text.from_config(CONFIG, False, "file", embed_dim=512)
    written = openclip_text.to_config(text, is_timm=False, length=77)
    assert (written["hf_model_name"], written["hf_pooler_type"], written["hf_proj_type"]) == (
        "xlm-roberta-base",
        "mean_pooler",
        "mlp",
    )
    for changes, message in (
        (dict(pool="last"), "model.text.pool='last': OpenCLIP has no such tower"),
        (dict(projection="bias"), "model.text.projection='bias': OpenCLIP has no such tower"),
    ):
        with pytest.raises(UserError, match=message):
            openclip_text.to_config(text | changes, is_timm=False, length=77)
    smaller = openclip_text.to_config(text | dict(depth=2), is_timm=False, length=77)
    assert smaller["hf_model_name"] == "."
    assert np.all([value is not None for value in smaller.values()])
