"""PyTorch's own models of random configurations: loaded here, written back, loaded there."""

import json

import numpy as np
import pytest

from mmjax.inference import convert
from mmjax.interop import export, foreign_checkpoint, huggingface
from tests.helpers import runs
from tests.helpers.torch_weights import randomise
from tests.helpers.towers import encode

pytestmark = pytest.mark.full
COUNT = 20
BATCH = 3
TOWERS = ("vision", "text")


def tower(rng, activations):
    heads = int(rng.choice([1, 2, 3, 4]))
    return dict(
        hidden_size=heads * int(rng.choice([4, 6, 8])),
        intermediate_size=int(rng.integers(5, 40)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        hidden_act=str(rng.choice(activations)),
        layer_norm_eps=float(rng.choice([1e-6, 1e-5, 1e-3])),
    )


def draw(kind, seed):
    """A random configuration and a model of it with random weights."""
    import transformers

    rng = np.random.default_rng(1000 * (kind == "siglip") + seed)
    activations = list(huggingface.ACTIVATIONS)
    vision, text = tower(rng, activations), tower(rng, activations)
    patch = int(rng.choice([4, 5, 8]))
    # Now and then, pixels beyond the last whole patch.
    vision |= dict(patch_size=patch, image_size=patch * int(rng.integers(1, 4)) + int(rng.choice([0, 0, 3])))
    vocab = int(rng.integers(20, 90))
    text |= dict(vocab_size=vocab, max_position_embeddings=int(rng.integers(3, 12)))
    text |= dict(bos_token_id=0, pad_token_id=1, eos_token_id=int(rng.choice([vocab - 1, vocab // 2, 2])))
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=int(rng.integers(4, 24))
        )
        model = transformers.CLIPModel(config)
    else:
        text["projection_size"] = vision["hidden_size"]
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    images = rng.standard_normal((BATCH, 3, vision["image_size"], vision["image_size"])).astype(np.float32)
    ids = rng.integers(3, vocab, (BATCH, text["max_position_embeddings"]))
    if text["eos_token_id"] != 2:  # 2 stands for the largest id of a text, whichever it is
        ids[np.arange(BATCH), rng.integers(0, ids.shape[1], BATCH)] = text["eos_token_id"]
    return randomise(model, seed), images, ids


def run(model, images, ids):
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(ids), pixel_values=torch.from_numpy(images))
    return [x.numpy() for x in (out.image_embeds, out.text_embeds, out.logits_per_image)]


@pytest.mark.parametrize("seed", range(COUNT))
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_random_configurations(kind, seed, tmp_path):
    model, images, ids = draw(kind, seed)
    want = run(model, images, ids)
    model.save_pretrained(tmp_path / "theirs", safe_serialization=True)
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "theirs")
    assert opened.format == f"hf-{kind}"
    image, text = encode(opened, images.transpose(0, 2, 3, 1), ids.astype(np.int32))
    params = opened.read(lambda _, array: array)
    logits = np.exp(params["logit_scale"]) * image @ text.T + params.get("logit_bias", 0.0)
    for result, wanted in zip((image, text, logits), want, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)

    export.write(tmp_path / "ours", "hf", settings=opened.settings, preprocessing=opened.preprocessing, params=params)
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    # An activation that has other names there is written by one of them, and rounds otherwise.
    acts = [[getattr(x.config, f"{name}_config").hidden_act for name in TOWERS] for x in (model, again)]
    tolerance = 0.0 if acts[0] == acts[1] else 1e-5
    for result, wanted in zip(run(again.eval(), images, ids), want, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=tolerance)


def test_a_resized_vocabulary_of_a_legacy_config(tmp_path):
    """OpenAI's `eos_token_id: 2` pools at the largest id: of a text with added tokens at the largest of those."""
    import torch
    import transformers

    import mmjax

    model, *_ = draw("clip", 2)
    vocab = model.config.text_config.vocab_size
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 2
    torch.manual_seed(0)
    model.text_model.resize_token_embeddings(vocab + 2)
    model.config.text_config.vocab_size = vocab + 2
    context, side = (model.config.text_config.max_position_embeddings, model.config.vision_config.image_size)
    ids = np.full((3, context), vocab - 1)
    ids[:, 0] = vocab - 2
    ids[1, 1], ids[2, :2] = vocab + 1, (vocab, vocab + 1)
    model.save_pretrained(tmp_path)
    want = run(transformers.CLIPModel.from_pretrained(tmp_path).eval(), np.zeros((1, 3, side, side), np.float32), ids)
    assert mmjax.load(tmp_path).config.model.text.eos_id == -1
    np.testing.assert_allclose(mmjax.load(tmp_path).encode_text(ids), want[1], atol=1e-5)


def test_siglip_2_of_fixed_resolution(tmp_path):
    """A SiglipModel with Gemma's vocabulary and a text tower narrower than the embeddings, as giant-opt's is."""
    import torch
    import transformers

    tower = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    text = tower | dict(hidden_size=8, projection_size=12, vocab_size=256_000, max_position_embeddings=64)
    text |= dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    vision = tower | dict(hidden_size=12, image_size=32, patch_size=16)
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(dict(image_processor_type="SiglipImageProcessor", size=dict(height=32, width=32), resample=2))
    )
    opened = foreign_checkpoint.open_checkpoint(tmp_path)
    assert (opened.format, opened.preprocessing["interpolation"]) == ("hf-siglip", "bilinear")
    assert (opened.settings["embed_dim"], opened.settings["text"]["width"]) == (12, 8)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32)
    ids = rng.integers(0, 256_000, (BATCH, 64))
    image, text = encode(opened, images.transpose(0, 2, 3, 1), ids.astype(np.int32))
    want = run(model, images, ids)
    np.testing.assert_allclose(image, want[0], atol=1e-5)
    np.testing.assert_allclose(text, want[1], atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_images_are_prepared_as_their_processor_does(kind, tmp_path):
    """preprocessor_config.json, as written here, in their image processor."""
    import transformers
    from PIL import Image

    from mmjax.data.image.transforms import ImageSpec, eval_transform

    model, *_ = draw(kind, 0)
    model.save_pretrained(tmp_path / "theirs")
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "theirs")
    params = opened.read(lambda _, array: array)
    prepared = opened.preprocessing | {"size": 24}
    settings = opened.settings | {"image": opened.settings["image"] | {"image_size": 24}}
    export.write(tmp_path / "ours", "hf", settings=settings, preprocessing=prepared, params=params)
    config = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    name = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[kind]
    assert config["image_processor_type"] == name
    # The variant of it that resizes with Pillow, as the originals did.
    processor = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    theirs = processor(**{k: v for k, v in config.items() if k != "image_processor_type"})(picture, return_tensors="np")
    spec = ImageSpec(**prepared)
    ours = (eval_transform(picture, spec) / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(theirs["pixel_values"][0].transpose(1, 2, 0), ours, atol=1e-6)


def test_from_import_to_training_to_evaluation_to_export(tmp_path):
    """A CLIP of PyTorch's is fine-tuned and evaluated here, and what comes out is what PyTorch computes with it."""
    import torch
    import transformers

    import mmjax

    common = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, hidden_act="gelu")
    text = common | dict(
        vocab_size=259, max_position_embeddings=32, bos_token_id=257, eos_token_id=258, pad_token_id=256
    )
    vision = common | dict(image_size=16, patch_size=8)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "theirs")

    data = dict(data__train="shapes", data__eval="shapes/test", steps=3, checkpoint__every=3)
    run_config = runs.config(init_from=str(tmp_path / "theirs"), **data)
    assert runs.train(run_config, tmp_path / "run") is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    assert 0 <= line["shapes/image_retrieval_recall@1"] <= 1

    tuned = mmjax.load(tmp_path / "run")
    start = mmjax.load(tmp_path / "theirs")
    name = ("image", "transformer", "layers", "mlp", "fc1", "kernel")
    kernels = []
    for model in (tuned, start):
        node = model.params
        for part in name:
            node = node[part]
        kernels.append(np.asarray(node))
    assert 0 < abs(kernels[0] - kernels[1]).max() < 0.02  # three steps away from where it began

    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 3, 16, 16)).astype(np.float32)
    ids = rng.integers(0, 256, (BATCH, 32))
    ids[np.arange(BATCH), [5, 9, 31]] = 258
    want = [tuned.encode_image(images.transpose(0, 2, 3, 1)), tuned.encode_text(ids)]
    want.append(tuned.logit_scale * want[0] @ want[1].T)

    convert.convert(tmp_path / "run", tmp_path / "hf", to="hf")
    model, info = transformers.CLIPModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values())
    for result, wanted in zip(run(model.eval(), images, ids), want, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)

    # By OpenCLIP's format, whose loading there the golden files stand for, and from there to PyTorch again.
    convert.convert(tmp_path / "run", tmp_path / "openclip", to="openclip")
    convert.convert(tmp_path / "openclip", tmp_path / "hf2", to="hf")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "hf2")
    for result, wanted in zip(run(model.eval(), images, ids), want, strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-5)
