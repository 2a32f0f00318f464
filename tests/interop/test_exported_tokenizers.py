"""Tokenizers written beside exported weights: the same ids by their own libraries."""

import json

import numpy as np
import pytest
import tokenizers

import mmjax
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.interop import export, exported_tokenizers, named_models
from mmjax.parallel import partition

LENGTH = 24
PREPARED = dict(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resize="crop", interpolation="bicubic")


def texts(count=100):
    """Words, numbers, punctuation, other alphabets, and long ones."""
    rng = np.random.default_rng(0)
    words = ["a", "red", "circle", "left", "of", "Blue", "square,", "two_dogs", "it's", "1999!", "(ring)", "café"]
    words += ["Straße", "猫", "🐶", "don't", "triangle", "#", "x"]
    return [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(count)] + ["", "A"]


@pytest.fixture(scope="module")
def json_file(tmp_path_factory):
    """A tokenizer.json without a post-processor."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<pad>", "<mask>", "</s>"])
    backend.train_from_iterator(texts(), trainer)
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("spm")
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts(400)),
        model_prefix=str(folder / "spiece"),
        vocab_size=50,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_id=0,
        character_coverage=0.98,
        minloglevel=2,
    )
    return folder / "spiece.model"


@pytest.mark.parametrize("spec", ["bytes", "words:shapes", "json:", "json+bos:"])
def test_a_tokenizer_json_gives_the_same_ids(spec, json_file):
    tokenizer = make_tokenizer(spec + (str(json_file) if spec.endswith(":") else ""), LENGTH)
    files = exported_tokenizers.files(tokenizer)
    backend = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    backend.enable_truncation(LENGTH)
    for text in texts():
        assert backend.encode(text).ids == tokenizer.encode([text])[0], text
    config = json.loads(files["tokenizer_config.json"])
    assert config["model_max_length"] == LENGTH and backend.token_to_id(config["eos_token"]) == tokenizer.eos_id


def test_what_the_library_does_otherwise_is_noted(json_file):
    tokenizer = make_tokenizer(f"json+canonicalize:{json_file}", LENGTH)
    assert "(canonicalize)" in exported_tokenizers.notes(tokenizer, "hf")[0]
    assert exported_tokenizers.openclip_fields(tokenizer)["tokenizer_kwargs"] == {"clean": "canonicalize"}
    assert not exported_tokenizers.notes(tokenizer, "openclip")
    assert exported_tokenizers.openclip_fields(make_tokenizer("clip", LENGTH)) == {}


# -- by the libraries --------------------------------------------------------------------------------------------------


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Writes a fresh tiny model with a tokenizer in a format; returns the folder and the model."""

    def function(spec, to, *, siglip=False):
        tokenizer = make_tokenizer(spec, LENGTH)
        settings = named_models.find("ViT-B-16-SigLIP" if siglip else "ViT-B-32").settings
        for tower in ("image", "text"):
            settings[tower] |= dict(width=32, depth=1, heads=2, mlp_dim=64)
        settings["embed_dim"] = 32
        settings["image"] |= dict(image_size=32, patch_size=16)
        settings["text"] |= dict(vocab_size=tokenizer.vocab_size, context_length=LENGTH)
        settings["text"] |= dict(activation="gelu_tanh", norm_eps=1e-6) if siglip else dict(eos_id=tokenizer.eos_id)
        prepared = PREPARED | dict(resize="squash" if siglip else "crop")
        prepared |= dict(image_rule="huggingface" if to == "hf" else "open_clip")
        monkeypatch.setattr(named_models, "find", lambda name: named_models.NamedModel(name, settings, prepared, spec))
        model = mmjax.create_model("tiny")
        params = partition.flattened(model.params)
        export.write(tmp_path / to, to, settings=settings, preprocessing=prepared, params=params, tokenizer=tokenizer)
        return tmp_path / to, model

    return function


@pytest.fixture(scope="module")
def pictures():
    from PIL import Image

    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)) for i in range(3)]


@pytest.mark.full
@pytest.mark.parametrize("spec", ["clip", "bytes", "json:"])  # of `words` its CLIPModel could not have the end of text
def test_transformers_reads_a_processor(convert, json_file, pictures, spec):
    import torch
    import transformers

    folder, model = convert(spec + (str(json_file) if spec.endswith(":") else ""), "hf")
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    # The default one resizes with torchvision, which rounds otherwise.
    processor.image_processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    theirs = transformers.CLIPModel.from_pretrained(folder)
    captions = ["a red circle left of a blue square", "two triangles"]
    batch = processor(text=captions, images=pictures, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        logits = theirs(**batch).logits_per_image.numpy()
    expected = model.logit_scale * model.similarity(pictures, captions)
    np.testing.assert_allclose(logits, expected, atol=2e-4)  # of logits up to 14
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    for text in texts(30):
        ids = processor.tokenizer(text, truncation=True)["input_ids"]
        assert ids == model.tokenizer.encode([text])[0] or not text.isascii(), text


@pytest.mark.full
def test_transformers_reads_siglips_processor(convert, sentencepiece_file, pictures):
    import torch
    import transformers

    folder, model = convert(f"sentencepiece:{sentencepiece_file}", "hf", siglip=True)
    processor = transformers.SiglipProcessor.from_pretrained(folder)
    processor.image_processor = transformers.SiglipImageProcessorPil.from_pretrained(folder)
    theirs = transformers.SiglipModel.from_pretrained(folder)
    captions = ["a red circle left of a blue square", "two triangles"]
    batch = processor(text=captions, images=pictures, return_tensors="pt", padding="max_length", truncation=True)
    with torch.no_grad():
        logits = theirs(**batch).logits_per_image.numpy()
    expected = model.logit_scale * model.similarity(pictures, captions) + model.logit_bias
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.full
@pytest.mark.parametrize("spec", ["clip", "words:shapes", "json:"])
def test_open_clip_reads_a_folder(convert, json_file, pictures, spec):
    import open_clip
    import torch

    folder, model = convert(spec + (str(json_file) if spec.endswith(":") else ""), "openclip")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    captions = ["a red circle left of a blue square", "two triangles"]
    theirs.eval()
    with torch.no_grad():
        images = theirs.encode_image(torch.stack(list(map(preprocess, pictures))), normalize=True).numpy()
        words = theirs.encode_text(tokenizer(captions), normalize=True).numpy()
    np.testing.assert_allclose(images, model.encode_image(pictures), atol=1e-5)
    np.testing.assert_allclose(words, model.encode_text(captions), atol=1e-5)
