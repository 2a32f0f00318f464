"""Files of families without their library: written by mmjax and read again; what is refused, by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmjax
from campaigns import family_models
from campaigns.family_models import GPT2, IMAGE, SETTINGS
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint
from mmjax.interop.families import family, llava, table
from tests.helpers import finetune


@pytest.fixture(params=table.FAMILIES, ids=lambda form: form.architecture)
def folder(request, tmp_path):
    """A folder of a family, as mmjax writes it."""
    settings = family.complete(SETTINGS[request.param.architecture])
    return family_models.write_folder(settings, tmp_path / "model")


def change(folder, **fields):
    """Changes fields of a folder's config.json; `a__b` stands for a field b in a group a."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name, value in fields.items():
        *groups, last = name.split("__")
        part = config
        for group in groups:
            part = part[group]
        part[last] = value
    file.write_text(json.dumps(config))


def refused(folder, message):
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_as_it_was(folder):
    opened = foreign_checkpoint.open_checkpoint(folder)
    architecture = opened.format.removeprefix("hf-")
    settings = family.complete(SETTINGS[architecture])
    assert opened.settings == settings
    read = opened.read(lambda _, x: x)
    for path, array in family_models.blank_params(settings).items():
        if path == "logit_scale":  # which is not there
            continue
        if path.startswith("match_head") and settings["kind"] == "vilt":  # one score there
            array, read[path] = (x[..., 1] - x[..., 0] for x in (array, read[path]))
        np.testing.assert_array_equal(read[path], array, err_msg=path)


def test_arrays_and_fields_that_do_not_fit_are_named(folder):
    weights = folder / "model.safetensors"
    arrays = load_file(weights)
    name = next(
        name
        for name in arrays
        if name.endswith(("mlp.c_proj.weight", "0.output.dense.weight", "mlp.down_proj.weight", "mlp.fc2.weight"))
    )
    save_file({key: x for key, x in arrays.items() if key != name}, weights)
    refused(folder, f"model.safetensors: the parameter {name} is missing")
    save_file(arrays | {"one.more": np.zeros(2, np.float32)}, weights)
    refused(folder, "the parameter one.more is unknown to this kind of model")
    save_file(arrays | {name: np.zeros((3, 5), np.float32)}, weights)
    refused(folder, rf"{name} has shape \[3, 5\], but its config makes it")
    save_file(arrays, weights)
    change(folder, architectures=["SomethingElse"])
    refused(folder, r"architectures=\['SomethingElse'\] is not read; of model_type=.* mmjax reads ")
    change(folder, architectures=3)
    refused(folder, "architectures=3: wants a list with the name of a class")


@pytest.mark.parametrize("architecture", ["CLIPVisionModel", "SiglipVisionModel"])
def test_towers_of_other_versions_have_other_names(architecture, tmp_path):
    folder = family_models.write_folder(family.complete(SETTINGS[architecture]), tmp_path / "model")
    want = foreign_checkpoint.open_checkpoint(folder).read(lambda _, x: x)
    arrays = load_file(folder / "model.safetensors")
    save_file({f"vision_model.{name}": x for name, x in arrays.items()}, folder / "model.safetensors")
    got = foreign_checkpoint.open_checkpoint(folder).read(lambda _, x: x)
    for path, array in want.items():
        np.testing.assert_array_equal(got[path], array, err_msg=path)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(encoder__model_type="deit"), "encoder.model_type='deit' is not read; mmjax has 'vit'"),
        (dict(decoder__n_layer=10**9), r"decoder.n_layer=1000000000 is out of range: it must be 1 to 1000"),
        (dict(decoder__n_embd="wide"), "decoder.n_embd='wide': wants a value such as 768"),
        (dict(decoder__n_embd=20), "encoder.hidden_size=16 is not decoder.n_embd=20, and a layer between the two"),
        (dict(decoder__n_head=3), "the text part's 3 attention heads do not divide its width of 16"),
        (dict(decoder__activation_function="mish"), "decoder.activation_function='mish' is not known"),
        (dict(encoder__image_size=[16, 24]), r"encoder.image_size=\[16, 24\] is not one number; mmjax takes squares"),
        (dict(encoder=3), "encoder='3': wants a group of fields"),
        (dict(decoder__scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True is not read"),
        (dict(decoder__vocab_size=10**7, decoder__n_embd=1600, encoder__hidden_size=1600), "which no model has"),
    ],
)
def test_configs_of_vit_gpt2(tmp_path, fields, message):
    settings = family.complete(SETTINGS["VisionEncoderDecoderModel"])
    family_models.write_folder(settings, tmp_path / "model")
    change(tmp_path / "model", **fields)
    refused(tmp_path / "model", message)


@pytest.mark.parametrize(
    "architecture, fields, message",
    [
        ("ViltForQuestionAnswering", dict(id2label={"0": "no"}), "id2label=.* wants 2 or more names by number"),
        (
            "ViltForQuestionAnswering",
            dict(id2label={"0": "no", "2": "yes"}),
            "id2label: its answer 1 is 'None', which is no name",
        ),
        ("ViltForQuestionAnswering", dict(id2label={"0": "no", "1": "no"}), "id2label names one answer twice"),
        ("ViltForMaskedLM", dict(modality_type_vocab_size=3), "modality_type_vocab_size=3 is not read; mmjax has 2"),
        ("BlipForConditionalGeneration", dict(tie_word_embeddings=False), "tie_word_embeddings=False is not read"),
        (
            "BlipForQuestionAnswering",
            dict(vision_config__hidden_size=8),
            "hidden_size=8 is not text_config.hidden_size=1",
        ),
        (
            "Blip2ForConditionalGeneration",
            dict(text_config__model_type="t5"),
            "model_type='t5' is not read; mmjax has 'opt",
        ),
        (
            "Blip2ForConditionalGeneration",
            dict(text_config__word_embed_proj_dim=8),
            "proj_dim=8 is not text_config.hid",
        ),
        (
            "Blip2ForConditionalGeneration",
            dict(text_config__do_layer_norm_before=False),
            "norm_before=False is not read",
        ),
        ("Blip2ForConditionalGeneration", dict(image_token_index=120), "image_token_index=120 is none of the 120 ids"),
        ("Blip2ForConditionalGeneration", dict(num_query_tokens=39), "num_query_tokens=39 leaves no room for a text"),
        (
            "Blip2ForConditionalGeneration",
            dict(qformer_config__use_qformer_text_input=True),
            "text_input=True is not re",
        ),
        (
            "LlavaForConditionalGeneration",
            dict(text_config__eos_token_id=[2, 3]),
            r"eos_token_id=\[2, 3\]: mmjax ends a",
        ),
    ],
)
def test_configs_of_other_families(tmp_path, architecture, fields, message):
    family_models.write_folder(family.complete(SETTINGS[architecture]), tmp_path / "model")
    change(tmp_path / "model", **fields)
    refused(tmp_path / "model", message)


def test_vilt_sees_squares_and_says_so(tmp_path):
    folder = family_models.write_folder(family.complete(SETTINGS["ViltForQuestionAnswering"]), tmp_path / "model")
    fields = dict(image_processor_type="ViltImageProcessor", size={"shortest_edge": 16}, size_divisor=8, do_pad=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    opened = foreign_checkpoint.open_checkpoint(folder)
    assert opened.notes == ("images are squashed to 16 x 16 pixels, where ViltImageProcessor keeps their shapes",)
    assert (opened.preprocessing["resize"], opened.preprocessing["interpolation"]) == ("squash", "bicubic")
    assert mmjax.load(folder).answers == ("LABEL_0", "LABEL_1")
    with pytest.raises(UserError, match="ViLT without a head, which can do nothing by itself; config.init_from takes"):
        mmjax.load(family_models.write_folder(family.complete(SETTINGS["ViltModel"]), tmp_path / "bare"))


def test_models_that_no_family_has_are_refused_by_field():
    settings = family.complete(dict(kind="captioner", image=IMAGE | dict(pre_norm=True), text=GPT2))
    with pytest.raises(UserError, match="model.image.pre_norm=True: Hugging Face's ViT-GPT2 has False there"):
        table.of_settings(settings)
    with pytest.raises(UserError, match="model.kind='albef': --to=hf writes two towers and 'captioner'"):
        table.of_settings(settings | dict(kind="albef"))
    with pytest.raises(UserError, match="model.fusion.kind='concat': Hugging Face's ViT.* has 'alone' there"):
        table.of_settings(dict(kind="fused", fusion=dict(kind="concat"), encoders={}, classes=3))


def test_parts_of_a_blip_that_also_writes():
    settings = family.complete(SETTINGS["BlipForImageTextRetrieval"] | dict(caption=True))
    params = family_models.blank_params(settings)
    with pytest.raises(UserError, match="no class there has all of it; give --architecture=BlipForConditionalGener"):
        table.select(settings, params)
    form, part, arrays = table.select(settings, params, "BlipForConditionalGeneration")
    assert (form.architecture, part["kind"]) == ("BlipForConditionalGeneration", "captioner")
    name = "layers/attention/out/bias"
    np.testing.assert_array_equal(arrays[f"text/transformer/{name}"], params[f"text_writer/{name}"])
    with pytest.raises(
        UserError, match="--architecture=BlipForConditionalGeneration: a part of model.kind='blip' with"
    ):
        table.select(part, arrays, "BlipForConditionalGeneration")
    with pytest.raises(UserError, match="--architecture='CLIPModel' is not known"):
        table.select(settings, params, "CLIPModel")


def test_generation_config(tmp_path):
    read = lambda **fields: family.read_decoding(fields, tmp_path)
    assert read() == dict(max_tokens=19, min_tokens=0)
    assert read(max_length=30, num_beams=4, length_penalty=2.0)["method"] == "beam"
    (tmp_path / family.GENERATION).write_text(json.dumps(dict(max_new_tokens=7, do_sample=True, top_p=0.9)))
    want = dict(max_tokens=7, min_tokens=0, method="sample", temperature=1.0, top_k=50, top_p=0.9)
    assert read(max_length=30) == want
    (tmp_path / family.GENERATION).write_text(json.dumps(dict(num_beams="many")))
    with pytest.raises(UserError, match="generation_config.json: num_beams=many: wants a number of 1 or more"):
        read()
    (tmp_path / family.GENERATION).write_text(json.dumps(dict(repetition_penalty=2.0)))
    with pytest.raises(UserError, match="repetition_penalty=2.0 is not read; mmjax writes without it"):
        read()
    (tmp_path / family.GENERATION).unlink()
    assert read(max_length=30, min_length=9)["min_tokens"] == 8
    assert read(max_length=30, min_length=9, min_new_tokens=10)["min_tokens"] == 10
    assert read(max_length=1, min_length=0) == dict(max_tokens=1, min_tokens=0)
    # As config.json of before version 4.30 has them all, and of sampling what nothing is sampled by.
    plain = dict(diversity_penalty=0.0, typical_p=0.9, bad_words_ids=None, suppress_tokens=[], num_beam_groups=1)
    assert read(**plain, encoder_repetition_penalty=1.0, eos_token_id=[2, 2]) == read()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(suppress_tokens=[1]), r"suppress_tokens=\[1\] is not read; mmjax writes without it"),
        (dict(begin_suppress_tokens=[220, 5]), r"begin_suppress_tokens=\[220, 5\] is not read"),
        (dict(bad_words_ids=[[3]]), r"bad_words_ids=\[\[3\]\] is not read"),
        (dict(forced_bos_token_id=0), "forced_bos_token_id=0 is not read"),
        (dict(penalty_alpha=0.6), "penalty_alpha=0.6 is not read"),
        (dict(diversity_penalty=0.5), "diversity_penalty=0.5 is not read"),
        (dict(encoder_repetition_penalty=1.2), "encoder_repetition_penalty=1.2 is not read"),
        (dict(do_sample=True, typical_p=0.9), "typical_p=0.9 is not read"),
        (dict(do_sample=True, min_p=0.1), "min_p=0.1 is not read"),
        (dict(min_length="long"), "min_length=long: wants a number of 0 or more"),
        (dict(eos_token_id=[1, 106]), r"eos_token_id=\[1, 106\]: mmjax ends a text at one id; leave that one"),
    ],
)
def test_ways_of_writing_that_are_not_read(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        family.read_decoding(fields, tmp_path)


def with_arrays(folder, arrays):
    """Adds arrays to a folder's file, or takes those away that are None."""
    weights = folder / "model.safetensors"
    save_file({name: x for name, x in (load_file(weights) | arrays).items() if x is not None}, weights)


@pytest.mark.parametrize(
    ("architecture", "copy", "original"),
    [
        ("VisionEncoderDecoderModel", "decoder.lm_head.weight", "decoder.transformer.wte.weight"),
        (
            "BlipForConditionalGeneration",
            "text_decoder.cls.predictions.decoder.weight",
            "text_decoder.bert.embeddings.word_embeddings.weight",
        ),
        (
            "BlipForConditionalGeneration",
            "text_decoder.cls.predictions.decoder.bias",
            "text_decoder.cls.predictions.bias",
        ),
        (
            "ViltForMaskedLM",
            "mlm_score.decoder.weight",
            "vilt.embeddings.text_embeddings.word_embeddings.weight",
        ),
        ("ViltForMaskedLM", "mlm_score.bias", "mlm_score.decoder.bias"),
        ("PaliGemmaForConditionalGeneration", "lm_head.weight", "language_model.model.embed_tokens.weight"),
    ],
)
def test_copies_are_compared(tmp_path, architecture, copy, original):
    folder = family_models.write_folder(family.complete(SETTINGS[architecture]), tmp_path / "model")
    table = load_file(folder / "model.safetensors")[original]
    wanted = foreign_checkpoint.open_checkpoint(folder).read(lambda _, x: x)
    for arrays in ({copy: table}, {copy: table, original: None}):  # with both names, and with the copy's alone
        with_arrays(folder, arrays)
        opened = foreign_checkpoint.open_checkpoint(folder).read(lambda _, x: x)
        assert all(np.array_equal(opened[path], array) for path, array in wanted.items())
    with_arrays(folder, {copy: table + 1, original: table})
    refused(folder, "differs from .*, and mmjax has one array for both, as .* leave the one out that is not meant")
    with_arrays(folder, {copy: table[:-1], original: table})
    refused(folder, "differs from")


def test_vilt_of_older_versions(tmp_path):
    """Version 4 wrote `tie_word_embeddings=False`, whatever the class, and the VQA model has an older name."""
    for architecture in ("ViltForQuestionAnswering", "ViltForMaskedLM"):
        folder = family_models.write_folder(family.complete(SETTINGS[architecture]), tmp_path / architecture)
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
        change(folder, tie_word_embeddings=False)
        foreign_checkpoint.open_checkpoint(folder)
    folder = tmp_path / "ViltForQuestionAnswering"
    change(folder, architectures=["ViltForVisualQuestionAnswering"])
    assert foreign_checkpoint.open_checkpoint(folder).format == "hf-ViltForQuestionAnswering"
    change(folder, architectures=None)
    refused(folder, 'no `architectures` says of which .* mmjax reads .*ViltForQuestionAnswering.*: add "architectures"')


def test_settings_cannot_be_given(folder):
    with pytest.raises(UserError, match="activation='gelu' was given, but .*config.json has all settings"):
        mmjax.load(folder, activation="gelu")


def test_a_tokenizer_that_ends_texts_otherwise_is_refused(tmp_path):
    folder = family_models.write_folder(
        family.complete(SETTINGS["LlavaForConditionalGeneration"] | dict(image_id=finetune.IMAGE)), tmp_path / "model"
    )
    finetune.write_tokenizer(folder)
    change(folder, text_config__eos_token_id=7)
    with pytest.raises(UserError, match="ends texts with id 2, and the model ends them with model.text.eos_id=7"):
        mmjax.load(folder).tokenize(["a cat"])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tie_word_embeddings": True}, "tied"),
        ({"text_config__tie_word_embeddings": True}, "tied"),
        ({}, "linear"),
    ],
)
def test_either_field_ties_the_head_of_a_llava(fields, expected, tmp_path):
    folder = family_models.write_folder(family.complete(SETTINGS["LlavaForConditionalGeneration"]), tmp_path / "model")
    change(folder, **fields)
    config = json.loads((folder / "config.json").read_text())
    settings = family.read_settings(llava.FAMILY, config, folder / "config.json")
    assert settings["text"]["head"] == expected


@pytest.mark.parametrize(
    ("fields", "theta"),
    [
        ({"rope_parameters": {"rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": None, "rope_theta": 3e4}, 3e4),
        ({"rope_parameters": None, "rope_theta": None, "rope_scaling": {"type": "default", "rope_theta": 5e5}}, 5e5),
    ],
)
def test_rotary_positions_of_any_version(fields, theta, tmp_path):
    folder = family_models.write_folder(family.complete(SETTINGS["LlavaForConditionalGeneration"]), tmp_path / "model")
    change(folder, **{f"text_config__{name}": value for name, value in fields.items()})
    config = json.loads((folder / "config.json").read_text())
    settings = family.read_settings(llava.FAMILY, config, folder / "config.json")
    assert settings["text"]["block"]["rope_theta"] == theta


def test_gelu_of_a_paligemma_means_the_other_one(tmp_path):
    folder = family_models.write_folder(
        family.complete(SETTINGS["PaliGemmaForConditionalGeneration"]), tmp_path / "model"
    )
    change(folder, text_config__hidden_act="gelu")
    assert foreign_checkpoint.open_checkpoint(folder).settings["text"]["activation"] == "gelu_tanh"
    change(folder, text_config__use_bidirectional_attention=False)
    refused(folder, "text_config.use_bidirectional_attention=False is not read")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.multi_modal_projector.linear.bias", "multi_modal_projector.linear.bias"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_llavas_names_of_every_version(theirs, ours):
    assert llava.renamed(theirs) == ours


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config__model_type": "qwen2"}, "text_config.model_type='qwen2' is not read; mmjax has 'llama'"),
        ({"text_config__rope_parameters": {"rope_type": "llama3"}}, "rope_type='llama3' is not read"),
        ({"text_config__rope_parameters": {"rope_theta": "x"}}, "rope_theta=x: wants a number from 1"),
        ({"text_config__num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=2"),
        ({"text_config__head_dim": 5}, "head_dim=5 is odd"),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer=\[-2, -1\]: wants one of 2 layers"),
        ({"image_token_index": 120}, "image_token_index=120 is none of the 120 ids"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy='full' is not read"),
    ],
)
def test_what_a_llava_has_otherwise_is_named(fields, message, tmp_path):
    folder = family_models.write_folder(family.complete(SETTINGS["LlavaForConditionalGeneration"]), tmp_path / "model")
    change(folder, **fields)
    refused(folder, message)
