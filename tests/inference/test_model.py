"""`mmjax.load`: one object from every format, which prepares, batches and embeds."""

import dataclasses
import shutil
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, processors

import mmjax
from mmjax import tasks
from mmjax.config import parse
from mmjax.data.image.transforms import ImageSpec, eval_transform
from mmjax.data.text import make_tokenizer
from mmjax.errors import UserError
from mmjax.inference import checkpoint_source, convert, eval_model
from mmjax.inference import model as model_lib
from mmjax.interop import foreign_checkpoint, tokenizer_files
from mmjax.nn.positions import bicubic_matrix
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop"
CLIP = GOLDEN / "openclip-quickgelu"
RNG = np.random.default_rng(0)


def gemma_like():
    """A tokenizer.json of SigLIP 2's kind: byte fallback, spaces as letters, and nothing about case."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "c", "t", "A", "C", "at", "cat"]
    model = models.BPE({n: i for i, n in enumerate(names)}, [("a", "t"), ("c", "at")], unk_token="<unk>", fuse_unk=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    backend.add_special_tokens(names[:4])
    return backend


def golden(name=CLIP.name):
    with np.load(GOLDEN / name / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    return mmjax.load(CLIP, batch_size=4)


@pytest.fixture(scope="module")
def pictures():
    return [Image.fromarray(RNG.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)) for i in range(5)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    assert runs.train(runs.config(steps=2, checkpoint__every=1, checkpoint__keep=2), folder) is None
    return folder


def test_importing_mmjax_imports_no_jax():
    code = "import sys, mmjax; mmjax.load; sys.exit('jax' in sys.modules)"
    assert runs.python("-c", code).returncode == 0


class TestEmbedding:
    def test_floats_are_taken_as_preprocessed(self, model):
        want = golden()
        result = model.encode_image(want["images"])
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, want["image"], atol=1e-5)
        np.testing.assert_allclose(model.encode_text(want["ids"]), want["text"], atol=1e-5)
        np.testing.assert_allclose(model.logit_scale * result @ want["text"].T, want["logits"], atol=1e-5)
        assert model.logit_bias is None

    def test_pictures_are_prepared_as_the_files_say(self, model, pictures):
        spec = ImageSpec(size=16, resize="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
        spec = dataclasses.replace(spec, image_rule="open_clip")
        assert model.image_spec == spec
        pixels = np.stack([eval_transform(picture, spec) for picture in pictures])
        result = model.encode_image(pictures)
        np.testing.assert_allclose(result, model.encode_image((pixels / 255 - 0.5) / 0.5), atol=1e-5)
        np.testing.assert_array_equal(result, model.encode_image([np.asarray(picture) for picture in pictures]))
        np.testing.assert_array_equal(result, model.encode_image(pixels))
        np.testing.assert_array_equal(model.encode_image(pictures[0]), model.encode_image(pictures[:1]))

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
    def test_pictures_of_other_modes(self, model, pictures, mode):
        """They become RGB after they are resized, as in OpenCLIP."""
        picture = pictures[0].convert(mode)
        want = model.encode_image([picture.resize((16, 16), Image.Resampling.BILINEAR).convert("RGB")])
        np.testing.assert_allclose(model.encode_image([picture]), want, atol=1e-6)

    def test_rows_do_not_depend_on_the_batch_and_few_shapes_are_compiled(self, model):
        images = RNG.standard_normal((11, 16, 16, 3)).astype(np.float32)
        want = np.concatenate([model.encode_image(images[i : i + 1]) for i in range(11)])
        for count in (2, 3, 4, 5, 11):
            np.testing.assert_allclose(model.encode_image(images[:count]), want[:count], atol=1e-6)
        assert model._embed_pixels._cache_size() == 3  # of 1, 2 and 4 rows
        assert model.encode_image(images[:0]).shape == model.encode_text([]).shape == (0, 12)

    def test_zero_shot(self, model, pictures):
        ids = golden()["ids"]
        known = {"a cat": ids[0], "a dog": ids[1], "no cat": ids[2], "no dog": ids[0]}
        tokenizer = lambda texts: (np.stack([known[text] for text in texts]), np.ones((len(texts), 7), bool))
        with mock.patch.object(model, "_tokenizer", tokenizer):
            result = model.zero_shot(pictures, ["cat", "dog"], templates=["a {c}", "no {c}"])
        text = model.encode_text(ids)
        cat, dog = text[0] + text[2], text[1] + text[0]
        logits = (
            model.logit_scale * model.encode_image(pictures) @ np.stack([x / np.linalg.norm(x) for x in (cat, dog)]).T
        )
        np.testing.assert_allclose(result, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)

    def test_one_name_and_one_template_are_not_letters(self, model, pictures):
        tokenizer = lambda texts: (
            np.stack([golden()["ids"][len(text) % 3] for text in texts]),
            np.ones((len(texts), 7), bool),
        )
        with mock.patch.object(model, "_tokenizer", tokenizer):
            want = model.zero_shot(pictures, ["cat"], templates=["a {c}"])
            np.testing.assert_array_equal(model.zero_shot(pictures, "cat", "a {c}"), want)
            np.testing.assert_array_equal(model.zero_shot(pictures, iter(["cat"]), {"cat": ["a cat"]}), want)
            for names, templates in (({"cat": 0}, "a {c}"), ([1], "a {c}"), ("cat", [b"a {c}"]), (None, "a {c}")):
                with pytest.raises(UserError, match="(class_names|templates)=.*: give a list of strings"):
                    model.zero_shot(pictures, names, templates)
            with pytest.raises(UserError, match="^class_names: a set has no order"):
                model.zero_shot(pictures, {"cat", "dog"})
            for names, templates, field in (([], ["a {c}"], "class_names"), (["cat"], [], "templates")):
                with pytest.raises(UserError, match=f"^{field}: .* at least one"):
                    model.zero_shot(pictures, names, templates)
        with pytest.raises(UserError, match="^texts: a set has no order"):
            model.encode_text({"a cat", "a dog"})

    def test_forms_in_which_other_libraries_have_them(self, model, pictures):
        want, images, ids = model.encode_image(pictures), golden()["images"], golden()["ids"]
        np.testing.assert_array_equal(model.encode_image(picture for picture in pictures), want)
        np.testing.assert_array_equal(model.encode_image([jax.numpy.asarray(picture) for picture in pictures]), want)
        for same in (list(images), images.transpose(0, 3, 1, 2), {"pixel_values": images}):
            np.testing.assert_array_equal(model.encode_image(same), model.encode_image(images))
        for same in (ids.tolist(), list(ids), iter(ids), {"input_ids": ids, "attention_mask": np.ones_like(ids)}):
            np.testing.assert_array_equal(model.encode_text(same), model.encode_text(ids))
        with pytest.warns(UserWarning, match="look as if only divided by 255"):
            model.encode_image(np.linspace(0, 1, 768).reshape(1, 16, 16, 3))

    @pytest.mark.full
    def test_tensors(self, model):
        import torch
        from transformers import BatchEncoding, BatchFeature

        images, ids = golden()["images"].astype(np.float32), golden()["ids"]
        tensor = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
        for same in (tensor, list(tensor), BatchFeature({"pixel_values": tensor})):
            np.testing.assert_array_equal(model.encode_image(same), model.encode_image(images))
        rounded = tensor.detach().bfloat16()
        want = model.encode_image(rounded.float().numpy().transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(model.encode_image(rounded), want)
        for same in (torch.tensor(ids), BatchEncoding({"input_ids": torch.tensor(ids)})):
            np.testing.assert_array_equal(model.encode_text(same), model.encode_text(ids))

    @pytest.mark.parametrize(
        "images, message",
        [
            (np.zeros((2, 24, 24, 3), np.float32), r"\[2, 24, 24, 3\].* load the model with image_size= for another"),
            (np.zeros((2, 16, 16), np.float32), "taken as preprocessed"),
            ([np.zeros((4, 4, 2), np.uint8)], "give paths, PIL images, uint8 arrays"),
            ([Image.new("F", (4, 4))], "PIL image of mode 'F' has no defined range"),
            (np.full((2, 16, 16, 3), np.nan), "image 0 has NaN"),
            (np.full((2, 16, 16, 3), 255.0), "floats from 255 to 255 are not normalised; normalise them by mean"),
            ({"pixels": np.zeros((2, 16, 16, 3))}, "a dictionary with pixels; 'pixel_values' is what is read"),
            (["cat.jpg"], "'cat.jpg' cannot be read: .*No such file"),
            (Path(__file__), "test_model.py': not_image: .* give the path of an image"),
            (b"GIF89a", "bytes .* give the path of an image"),
            (3, "int is no image"),
        ],
    )
    def test_other_images(self, model, images, message):
        with pytest.raises(UserError, match=message):
            model.encode_image(images)

    @pytest.mark.parametrize(
        "texts, message",
        [
            ("a cat", 'no tokenizer lies beside it, so give token ids.*tokenizer="sentencepiece:FILE"'),
            (np.zeros((2, 8), int), r"shape \[2, 8\]: give strings, or ids \[B, L\] with L at most 7"),
            (np.full((2, 7), 40), "ids from 40 to 40; the model has 0 to 39"),
            (np.zeros((2, 7)), "texts of type float64"),
            ([[1, 2], [3]], "texts: rows of different lengths"),
            ({"attention_mask": np.ones((2, 7), int)}, "texts: a dictionary with attention_mask; 'input_ids'"),
            (3, r"texts of type int64 and shape \[\]"),
        ],
    )
    def test_other_texts(self, model, texts, message):
        with pytest.raises(UserError, match=message):
            model.encode_text(texts)


class TestLoading:
    def test_a_sigmoid_model_gives_each_class_its_own_probability(self, pictures):
        model = mmjax.load(GOLDEN / "hf-siglip")
        assert model.logit_bias == -2.0 and model.config.objectives.sigmoid == 1.0
        with mock.patch.object(
            model_lib.zero_shot_lib, "zero_shot_weights", lambda *_: np.eye(2, 16, dtype=np.float32)
        ):
            result = model.zero_shot(pictures[:2], ["cat", "dog"])
        cosines = model.encode_image(pictures[:2])[:, :2]
        np.testing.assert_allclose(result, 1 / (1 + np.exp(2.0 - model.logit_scale * cosines)), atol=1e-5)

    def test_another_image_size_resamples_the_positions(self):
        model, larger = mmjax.load(CLIP), mmjax.load(CLIP, image_size=32)
        assert larger.config.model.image.image_size == larger.image_spec.size == 32
        table, resampled = (np.asarray(x.params["image"]["position_embedding"]) for x in (model, larger))
        matrix = bicubic_matrix(2, 4, antialias=True)
        np.testing.assert_array_equal(resampled[0], table[0])
        want = np.einsum("Hh,Ww,hwD->HWD", matrix, matrix, table[1:].reshape(2, 2, -1)).reshape(16, -1)
        np.testing.assert_allclose(resampled[1:], want, atol=1e-6)
        with pytest.raises(UserError, match="image_size=20 is not a multiple of the model's patches of 8 pixels"):
            mmjax.load(CLIP, image_size=20)

    def test_a_workdir(self, workdir, pictures):
        """The embeddings are those that `mmjax eval` computes."""
        model = mmjax.load(workdir)
        assert model.config.name == "tiny"
        meta = checkpoint_source.RunCheckpoint(workdir).meta
        config = runs.config()
        spec = ImageSpec(**meta["preprocessing"])
        task = tasks.Task(parse(config), spec)
        pixels = np.stack([eval_transform(picture, spec) for picture in pictures])
        np.testing.assert_allclose(
            model.encode_image(pictures), jax.jit(task.embed_images)(model.params, pixels), atol=1e-6
        )
        ids, mask = tasks.make_tokenizer(parse(config))(["a cat", "two dogs"])
        want = jax.jit(task.embed_text)(model.params, ids, mask)
        np.testing.assert_allclose(model.encode_text(["a cat", "two dogs"]), want, atol=1e-6)
        np.testing.assert_allclose(model.encode_text(ids), want, atol=1e-6)
        assert model.zero_shot(pictures, ["cat", "dog"]).shape == (5, 2)

    def test_steps_of_a_workdir(self, workdir):
        first, last = mmjax.load(workdir, step=1), mmjax.load(workdir)
        stored = runs.arrays(workdir, 2)
        np.testing.assert_array_equal(last.params["logit_scale"], stored["['params']['logit_scale']"])
        assert float(first.params["logit_scale"]) != float(last.params["logit_scale"])
        with pytest.raises(UserError, match="step=3: there is no such checkpoint; there are 1, 2"):
            mmjax.load(workdir, step=3)
        with pytest.raises(UserError, match="activation: the run in .* has its own config"):
            mmjax.load(workdir, activation="gelu")
        with pytest.raises(UserError, match="step=3: .* is not the workdir of a run"):
            mmjax.load(CLIP, step=3)

    def test_over_a_mesh_every_array_is_read_to_its_place(self, model, workdir, pictures):
        mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
        images, text = golden()["images"], golden()["ids"]
        spread = mmjax.load(CLIP, mesh=mesh, batch_size=4, image_size=32)
        wider = mmjax.load(CLIP, batch_size=4, image_size=32)
        np.testing.assert_allclose(spread.encode_image(pictures), wider.encode_image(pictures), atol=1e-5)
        spread = mmjax.load(CLIP, mesh=mesh, batch_size=4)
        np.testing.assert_allclose(spread.encode_image(images), model.encode_image(images), atol=1e-5)
        np.testing.assert_allclose(spread.encode_text(text), model.encode_text(text), atol=1e-5)
        leaves = jax.tree.leaves(spread.params) + jax.tree.leaves(mmjax.load(workdir, mesh=mesh).params)
        assert all(leaf.sharding.mesh == mesh for leaf in leaves)
        assert any(leaf.addressable_shards[0].data.size < leaf.size for leaf in leaves)

    def test_evaluation_reads_parameters_to_the_mesh_alone(self):
        """A copy on one device would keep a large model from being evaluated."""
        shardings = []
        make = jax.make_array_from_callback

        def noting(shape, sharding, callback, **more):
            shardings.append(sharding)
            return make(shape, sharding, callback, **more)

        overrides = [("mesh.data", "1"), ("mesh.fsdp", "8")]
        with mock.patch.object(jax, "make_array_from_callback", noting):
            with mock.patch.object(tasks, "make_tokenizer", return_value=None):
                model = eval_model.open_model(GOLDEN / "hf-clip", overrides, tokenizer="bytes")
            params = model.restore()
        assert len(shardings) == len(jax.tree.leaves(params)) and all(
            len(leaf_sharding.device_set) == 8 for leaf_sharding in shardings
        )

    def test_results_of_the_same_weights_by_two_libraries_are_not_one(self, tmp_path):
        """Their pixels differ, so a suite that has evaluated one has not evaluated the other."""
        convert.convert(GOLDEN / "hf-clip", tmp_path / "openclip", to="openclip")
        with mock.patch.object(tasks, "make_tokenizer", return_value=None):
            paths = (GOLDEN / "hf-clip", tmp_path / "openclip")
            one, other = (eval_model.open_model(path, tokenizer="bytes").identity for path in paths)
        assert one != other and one.split()[:2] == other.split()[:2]

    def test_no_path(self):
        with pytest.raises(UserError, match="path=None: give a workdir, a file or folder of weights, or hf-hub:NAME"):
            mmjax.load(None)

    def test_the_hub(self, tmp_path):
        """What is there decides what is fetched; nothing here goes to the network."""
        import types

        fetched = []

        def snapshot_download(name, *, allow_patterns):
            fetched.append((name, allow_patterns))
            return str(CLIP)

        files = ["README.md", "open_clip_model.safetensors", "open_clip_config.json", "pytorch_model.bin", "runs/x.bin"]
        package = types.SimpleNamespace(list_repo_files=lambda name: files, snapshot_download=snapshot_download)
        with mock.patch.dict(sys.modules, huggingface_hub=package):
            assert mmjax.load("hf-hub:someone/tiny").config.name == "someone/tiny"
            files[:] = ["README.md", "model.onnx"]
            with pytest.raises(UserError, match="holds no weights in a format that mmjax reads"):
                mmjax.load("hf-hub:someone/else")
            package.list_repo_files = mock.Mock(side_effect=OSError("no route\nto host"))
            with pytest.raises(UserError, match=r"could not be fetched \(OSError: no route\)"):
                mmjax.load("hf-hub:someone/offline")
        assert fetched == [("someone/tiny", ["open_clip_config.json", "open_clip_model.safetensors"])]


class TestTokenizers:
    @pytest.mark.parametrize(
        "name, file, kind",
        [
            ("hf-siglip", "spiece.model", "sentencepiece"),
            ("hf-siglip", "tokenizer.json", "json"),
            ("big_vision", "sentencepiece.model", "sentencepiece"),
            ("hf-clip", "tokenizer.json", "json"),
        ],
    )
    def test_the_file_beside_the_weights_is_taken(self, tmp_path, name, file, kind):
        shutil.copytree(GOLDEN / name, tmp_path / "model")
        (tmp_path / "model" / "expected.npz").unlink()
        (tmp_path / "model" / file).write_bytes(b"")
        settings = {"image.image_size": 16, "text.causal": False, "text.pool": "last"} if name == "big_vision" else {}
        assert (
            foreign_checkpoint.open_checkpoint(tmp_path / "model", settings).tokenizer
            == f"{kind}:{tmp_path / 'model' / file}"
        )

    def test_clips_vocabulary_is_clips_tokenizer(self):
        shapes = {"vocab_size": 49408}
        config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": shapes}}
        tensors = mock.MagicMock()
        *_, tokenizer = foreign_checkpoint._openclip(tensors, "openclip", config, CLIP / "open_clip_config.json")
        assert tokenizer == "clip"
        shapes["hf_tokenizer_name"] = "somewhere/else"  # whose file does not lie there
        *_, tokenizer = foreign_checkpoint._openclip(tensors, "openclip", config, CLIP / "open_clip_config.json")
        assert tokenizer == ""

    @pytest.mark.parametrize(
        "clean, file, kind",
        [
            (None, "tokenizer.json", "json+whitespace"),
            (None, "spiece.model", ""),  # whose kind has no other cleaning than SigLIP's
            ("canonicalize", "spiece.model", "sentencepiece"),
            ("canonicalize", "tokenizer.json", "json+canonicalize"),
        ],
    )
    def test_openclips_cleaning_is_not_left_out(self, tmp_path, clean, file, kind):
        """A tokenizer.json does not say that texts are cleaned before."""
        text = {"hf_tokenizer_name": "somewhere", "tokenizer_kwargs": clean and {"clean": clean}}
        config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}}
        (tmp_path / file).write_bytes(b"")
        *_, tokenizer = foreign_checkpoint._openclip(
            mock.MagicMock(), "openclip", config, tmp_path / "open_clip_config.json"
        )
        assert tokenizer.partition(":")[0] == kind

    @pytest.mark.parametrize(
        "text, message",
        [
            (dict(hf_tokenizer_name="x", tokenizer_kwargs={"language": "de"}), "'language=de' is not known"),
            (dict(hf_tokenizer_name="x", tokenizer_mode="clips"), "'tokenizer_mode=clips' is not known"),
            (dict(tokenizer_kwargs={"reduction_mask": "syntax"}), "clip takes no 'reduction_mask=syntax'"),
        ],
    )
    def test_what_openclip_can_be_told_and_mmjax_cannot_do_is_refused(self, tmp_path, text, message):
        (tmp_path / "tokenizer.json").write_text("{}")
        spec = tokenizer_files.openclip_tokenizer(tmp_path, text, 49408)
        with pytest.raises(UserError, match=message):
            make_tokenizer.make_tokenizer(spec, 8)

    @pytest.mark.parametrize(
        "config, lower",
        [('{"tokenizer_class": "GemmaTokenizer"}', True), ('{"tokenizer_class": "T5Tokenizer"}', False)],
    )
    def test_siglip_2_is_lower_cased(self, tmp_path, config, lower):
        shutil.copytree(GOLDEN / "hf-siglip", tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text(gemma_like().to_str())
        (tmp_path / "model" / "tokenizer_config.json").write_text(config)
        model = mmjax.load(tmp_path / "model")
        upper, plain = (model.tokenizer([text])[0].tolist() for text in ("A Cat", "a cat"))
        assert (upper == plain) == lower
        assert model.config.data.tokenizer.startswith("json+lowercase:" if lower else "json:")

    def test_one_that_does_not_fit_is_refused_when_strings_come(self):
        model = mmjax.load(CLIP, tokenizer="clip")
        assert model.encode_text(golden()["ids"]).shape == (3, 12)
        with pytest.raises(UserError, match="data.tokenizer='clip' has 49408 ids, more than model.text.vocab_size=40"):
            model.encode_text(["a cat"])
