"""Every recipe builds and trains at tiny size, with its own objectives, optimizer and freezing."""

import json

import numpy as np
import pytest
import runs
from PIL import Image

from mmjax import config as config_lib
from mmjax.models import variants
from mmjax.training import checks

SIZES = ["clip:variant=" + size for size in ("B/32", "B/16", "L/14", "L/14@336", "H/14")]
SIZES += ["siglip:variant=" + size for size in ("B/16", "L/16", "So400m/14")] + [
    "lit",
    "lit:variant=L/14",
    "quickstart",
]
SIZES += ["captioner", "captioner:decoder=lstm", "coca", "coca:caption=0", "albef", "vilt:patches=1", "vqa", "qformer"]
SIZES += [
    "captioner:variant=captioner-B/16",
    "coca:variant=coca-B/32",
    "albef:variant=albef-B",
    "vilt:variant=vilt-B/32",
]
SIZES += ["llava", "vqa:blind=True", "vqa:variant=vilt-B/32", "fusion", "fusion:kind=late", "qformer:variant=qformer-B"]


@pytest.mark.parametrize("spec", SIZES)
def test_a_recipe_is_a_complete_config(spec):
    config = config_lib.load_recipe(spec)
    fields = lambda config: {name for name in config_lib.flatten(config) if not name.startswith("model.")}
    assert fields(config) == fields(config_lib.base_config())
    config.data.train = config.data.train or "digits"
    config.mesh.fsdp = 1
    checks.check_config(config)
    assert config.schedule.warmup < config.steps
    assert config_lib.from_json(config_lib.to_json(config)).to_dict() == config.to_dict()
    module = config_lib.recipe_folder() / f"{spec.partition(':')[0]}.py"
    for word in ("Command:", "Hardware and time:", "Expected:"):
        told = module.read_text().split(word)[1].split("\n")[0]
        assert not told.strip() or not told.strip().isupper()  # no placeholder


def tiny(spec, train="shapes@0.5+digits@0.5"):
    """A recipe as it is, but for the model's size, the data and the number of steps."""
    config = config_lib.load_recipe(spec)
    size = variants.variant("tiny")
    for tower in ("image", "text"):
        for field in ("width", "depth", "heads", "mlp_dim"):
            config.model[tower][field] = size[tower][field]
    config.model.embed_dim = 32
    config.model.image.image_size, config.model.image.patch_size = 16, 8
    config.model.text.vocab_size, config.model.text.context_length, config.model.text.eos_id = 259, 32, 258
    config.data.tokenizer, config.data.train, config.data.eval, config.data.workers = "bytes", train, "digits/test", 0
    config.steps, config.batch_size, config.eval.batch_size, config.log.every = 3, 16, 64, 1
    config.schedule.warmup, config.log.tensorboard, config.mesh.fsdp = 1, False, 1
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_clip_trains_on_a_folder_of_jpegs_then_lit_on_top(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["filepath\ttitle"]
    for i in range(24):
        colour, name = [((200, 30, 30), "red"), ((30, 30, 200), "blue")][i % 2]
        pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (20 + i, 30, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
        rows.append(f"{i}.jpg\ta {name} wall number {i}")
    table = tmp_path / "captions.tsv"
    table.write_text("\n".join(rows))

    config = tiny("clip:variant=B/32", f"pairs:{table}")
    config.data.eval = f"pairs:{table}"
    assert runs.train(config, tmp_path / "clip") is None
    logged = lines(tmp_path / "clip")
    assert [line["step"] for line in logged if line["kind"] == "train"] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in logged if line["kind"] == "train")
    (evaluated,) = [line for line in logged if line["kind"] == "eval"]
    assert 0 <= evaluated["captions/image_retrieval_recall@1"] <= 1

    config = tiny("lit:variant=B/32")
    config.init_from = str(tmp_path / "clip")
    assert runs.train(config, tmp_path / "lit") is None
    assert len(lines(tmp_path / "lit")) == 5  # three steps, evaluation, summary


def test_siglip_trains(tmp_path):
    assert runs.train(tiny("siglip:variant=B/16"), tmp_path / "siglip") is None
    first = lines(tmp_path / "siglip")[0]
    # At the start nearly all of the loss is the positives': their logits are scale * cosine + bias.
    assert abs(first["logit_bias"] + 10) < 0.1 and abs(first["logit_scale"] - 10) < 0.1 and first["loss"] > 1


def test_quickstart_trains_in_a_relative_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.train(tiny("quickstart"), "runs/quickstart", write_report=True) is None
    assert (tmp_path / "runs/quickstart/report.html").exists()
