"""BERT, RoBERTa and XLM-RoBERTa alone as what a run starts from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.errors import UserError
from mmjax.interop import bert_towers, foreign_checkpoint, lone_bert, param_translation
from mmjax.models import encoders
from mmjax.models.variants.fusion_models import FUSION
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import init_from

SIZES = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24, vocab_size=40)
SIZES |= dict(max_position_embeddings=12)
LAYERS = dict(width=16, depth=4, heads=2, mlp_dim=24, norm="post", norm_eps=1e-12)


def two_towers(kind="bert", **text):
    """A two-tower model with a text tower as a config of a kind has it."""
    settings = bert_towers.from_config(SIZES | dict(model_type=kind, type_vocab_size=2), "file")
    text = settings | dict(pool="cls", pooler=True, projection="linear", mask_padding=True) | text
    return base_config("tiny").model.to_dict() | dict(text=text)


def of_bert(name, **changes):
    """A model of a kind that makes its layers of a BERT."""
    model = json.loads(json.dumps(FUSION[name]))
    text = dict(vocab_size=40, context_length=12, **LAYERS) | changes.pop("text", {})
    model["text"] |= text
    if "fusion" in model:
        model["fusion"] |= LAYERS | dict(depth=1)
        del model["fusion"]["width"]
        model["text"]["depth"] = 3
    return model | changes


def config_of(model, source, **changes):
    config = base_config("tiny")
    set_group(config, "model", model)
    config.objectives.itc = 1.0
    with config.unlocked(), config.ignore_type():
        config.update(init_from=str(source))
        config.update_from_flattened_dict({path.replace("__", "."): value for path, value in changes.items()})
    return parse(config)


def read(model, source, **changes):
    """What a run of a model takes of a folder, and the model's settings."""
    config = config_of(model, source, **changes)
    replicated = mesh_lib.replicated(make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    shapes = param_translation.param_shapes(model)
    leaf = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=replicated)
    return init_from.read(nested({path: leaf(shape) for path, shape in shapes.items()}), config)


def nested(flat):
    """A tree of what is there by path."""
    tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


@pytest.fixture
def folder(tmp_path):
    """Writes a BERT as transformers does, with a head for masked words; the folder."""

    def write(config=None, prefix="bert.", drop=(), rename=lambda name: name, **arrays):
        config = SIZES | dict(model_type="bert", type_vocab_size=2) | (config or {})
        settings = bert_towers.from_config(config, "file")
        shapes = lone_bert._shapes(settings, has_pooler=True, has_head=True)
        rng = np.random.default_rng(0)
        params = {path: rng.normal(0, 0.3, shape).astype(np.float32) for path, shape in shapes.items()}
        table = [*lone_bert.bert.tower(prefix), *lone_bert._HEADS["cls.predictions.transform.dense.weight"]]
        rows = param_translation.select_rows(table, shapes, "BERT")
        tensors = dict(param_translation.export_params(params, rows))
        tensors["cls.predictions.decoder.weight"] = tensors[f"{prefix}embeddings.word_embeddings.weight"]
        tensors["cls.seq_relationship.weight"] = np.zeros((2, 16), np.float32)
        tensors |= arrays
        kept = {rename(name): x for name, x in tensors.items() if not name.startswith(tuple(drop) or ("?",))}
        save_file(kept, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path, params

    return write


def test_all_of_a_bert_is_taken_or_named(folder):
    source, params = folder()
    taken = read(two_towers(), source)
    assert taken.arrays.keys() == {path for path in params if not path.startswith("text/head")}
    for path, array in taken.arrays.items():
        np.testing.assert_array_equal(array, params[path], err_msg=path)
    of_head = {path for path in params if path.startswith("text/head")}
    assert set(taken.left) == of_head | {"cls.seq_relationship.weight"}
    assert {path.split("/")[0] for path in taken.fresh} == {"image", "image_head", "text_head", "logit_scale"}
    assert taken.lines()[0].endswith(f"from {source} (Hugging Face's BERT alone)")


def test_names_of_the_first_files_and_without_a_head(folder):
    older = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    source, params = folder(rename=older, drop=("cls.", "bert.pooler"))
    taken = read(two_towers(), source)
    np.testing.assert_array_equal(taken.arrays["text/norm_embed/bias"], params["text/norm_embed/bias"])
    assert not taken.left and "text_head/pooler/dense/kernel" in taken.fresh


def test_albef_takes_the_first_layers_for_the_text_and_the_others_for_both(folder):
    source, params = folder()
    taken = read(of_bert("tiny-albef"), source)
    for path, array in params.items():
        part = path.removeprefix("text/transformer/")
        if part == path:
            continue
        np.testing.assert_array_equal(taken.arrays[path], array[:3], err_msg=path)
        np.testing.assert_array_equal(taken.arrays[f"fusion/{part}"], array[3:], err_msg=path)
    np.testing.assert_array_equal(taken.arrays["text/head_bias"], params["text/head_bias"])
    fresh = {path for path in taken.fresh if path.startswith(("text/", "fusion/"))}
    assert fresh and all("cross" in path for path in fresh)


def test_blip_reads_and_writes_with_the_same_layers(folder):
    source, params = folder(dict(type_vocab_size=2))
    taken = read(of_bert("tiny-blip"), source)
    for path in ("attention/qkv/kernel", "norm1/scale"):
        for stack in ("text/transformer/layers", "text_writer/layers"):
            np.testing.assert_array_equal(taken.arrays[f"{stack}/{path}"], params[f"text/transformer/layers/{path}"])
    fresh = {path for path in taken.fresh if path.startswith("text")}
    assert all("cross" in path or path.startswith("text_projection") for path in fresh)
    assert "text/type_embedding" in taken.left


def test_the_qformer_takes_each_mlp_twice(folder):
    source, params = folder()
    taken = read(of_bert("tiny-qformer"), source)
    for block in (0, 1):
        for path in ("attention/qkv/kernel", "mlp/fc1/kernel", "norm2/bias"):
            theirs = params[f"text/transformer/layers/{path}"][block::2]
            ours = f"text/transformer/cross_layers/block{block}"
            np.testing.assert_array_equal(taken.arrays[f"{ours}/{path}"], theirs, err_msg=path)
            if not path.startswith("attention"):
                np.testing.assert_array_equal(taken.arrays[f"{ours}/segment1_{path}"], theirs, err_msg=path)
    assert "queries" in taken.fresh
    assert read(of_bert("tiny-qformer"), source, init_paths=("text",)).paths == {
        path: name for path, name in taken.paths.items() if path.startswith("text/")
    }


def test_a_bert_without_a_head_leaves_the_head_fresh(folder):
    source, _ = folder(drop=("cls.",))
    taken = read(of_bert("tiny-albef"), source)
    assert {"text/head_bias", "text/head_dense/kernel"} <= set(taken.fresh)


@pytest.mark.parametrize(
    "model, config, arrays, message",
    [
        (two_towers(mask_padding=False), {}, {}, r"another setting \(model.text.mask_padding: True -> False\)"),
        (two_towers(norm_eps=1e-5), {}, {}, r"another setting \(model.text.norm_eps: 1e-12 -> 1e-05\)"),
        (two_towers(depth=3), {}, {}, r"text/transformer/.* has shape \(4, "),
        (
            of_bert("tiny-albef", text=dict(vocab_size=44)),
            {},
            {},
            r"text/head_bias has shape \(40,\) there and has shape \(44,\) here",
        ),
        (two_towers(), dict(num_hidden_layers=2), None, "encoder.layer.2.* is unknown to this kind of model"),
        (two_towers(), {}, {"bert.embeddings.extra": np.ones(3, np.float32)}, "bert.embeddings.extra is unknown"),
        (
            two_towers(),
            {},
            {"cls.predictions.decoder.weight": np.ones((40, 16), np.float32)},
            "cls.predictions.decoder.weight is not bert.embeddings.word_embeddings.weight once more",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(folder, model, config, arrays, message):
    source, _ = folder(**({} if arrays is None else arrays))
    content = json.loads((source / "config.json").read_text()) | config
    (source / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        read(model, source)
    assert "\n" not in str(error.value)


def test_albefs_layers_must_add_up(folder):
    source, _ = folder()
    model = of_bert("tiny-albef")
    model["text"]["depth"] = 2
    with pytest.raises(UserError, match="num_hidden_layers=4, and model.text.depth=2 with model.fusion.depth=1 are 3"):
        read(model, source)
    model = of_bert("tiny-albef")
    model["fusion"]["activation"] = "gelu_tanh"
    with pytest.raises(UserError, match="model.fusion.activation='gelu_tanh', and this BERT has 'gelu' there"):
        read(model, source)


def test_the_tokenizer_beside_it_is_the_runs(folder):
    source, _ = folder()
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(UserError, match=r"data.tokenizer: json:.*vocab.txt -> bytes"):
        read(two_towers(), source, data__tokenizer="bytes")


def test_no_model_of_images_and_texts(folder):
    with pytest.raises(
        UserError, match="a BERT alone, which sees no images; config.init_from takes it as a text tower"
    ):
        foreign_checkpoint.open_checkpoint(folder()[0])


CLASSES = {
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "BertForPreTraining": "bert",
    "RobertaModel": "roberta",
    "RobertaForMaskedLM": "roberta",
    "XLMRobertaModel": "xlm-roberta",
}


@pytest.mark.full
@pytest.mark.parametrize("name", CLASSES)
def test_hidden_states_are_those_of_transformers(name, tmp_path):
    import torch
    import transformers

    from campaigns.family_models import randomised

    kind, cls = CLASSES[name], getattr(transformers, name)
    pad = 0 if kind == "bert" else 1
    config = cls.config_class(**SIZES, type_vocab_size=2, pad_token_id=pad, layer_norm_eps=1e-12)
    model = randomised(cls(config), 0)
    model.save_pretrained(tmp_path)
    lengths = np.array([9, 4, 1])
    ids = np.random.default_rng(1).integers(2, 40, (3, 9))
    mask = np.arange(9) < lengths[:, None]
    ids = np.where(mask, ids, pad)
    with torch.no_grad():
        out = model(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64)), output_hidden_states=True)
    hidden = [state.numpy() for state in out.hidden_states]
    settings = two_towers(kind, pooler=name.endswith("Model"))
    taken = read(settings, tmp_path)
    params = nested({path.removeprefix("text/"): x for path, x in taken.arrays.items() if path.startswith("text/")})
    fields = {
        field: value for field, value in settings["text"].items() if field not in ("pool", "pooler", "projection")
    }
    tower = encoders.TextTransformer(**fields)
    encoded = tower.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask), intermediates=True)
    np.testing.assert_allclose(encoded.tokens[mask], hidden[-1][mask], atol=1e-5, rtol=1e-5)
    for layer in range(4):
        np.testing.assert_allclose(encoded.layers[layer][mask], hidden[layer + 1][mask], atol=1e-5, rtol=1e-5)
    if name.endswith("Model"):
        kernel = taken.arrays["text_head/pooler/dense/kernel"]
        pooled = np.tanh(encoded.tokens[:, 0] @ kernel + taken.arrays["text_head/pooler/dense/bias"])
        np.testing.assert_allclose(pooled, out.pooler_output.numpy(), atol=1e-5, rtol=1e-5)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {name.split(".")[0] for name in names} >= ({"cls"} if kind == "bert" and "For" in name else set())
    # ALBEF's text sees the first layers
    if name == "BertForMaskedLM":
        albef = read(of_bert("tiny-albef"), tmp_path)
        first = albef.arrays["text/transformer/layers/mlp/fc2/kernel"]
        np.testing.assert_array_equal(first, taken.arrays["text/transformer/layers/mlp/fc2/kernel"][:3])
