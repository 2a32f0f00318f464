"""What trainers and other libraries put around a CLIP's weights, made by them: it is read, or named for what it is."""

import argparse
import collections
import datetime
import json
import pathlib

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint

pytestmark = pytest.mark.full
SETTINGS = {"activation": "gelu", "norm_eps": 1e-5, "heads": 2, "image.image_size": 32}
SETTINGS |= {"text.causal": True, "text.pool": "eos", "text.eos_id": 59}


@pytest.fixture(scope="module")
def model():
    """A CLIP of open_clip."""
    import open_clip

    text = dict(context_length=8, vocab_size=60, width=32, heads=2, layers=2)
    vision = dict(image_size=32, layers=2, width=32, head_width=16, patch_size=16)
    return open_clip.CLIP(
        embed_dim=16, vision_cfg=open_clip.CLIPVisionCfg(**vision), text_cfg=open_clip.CLIPTextCfg(**text)
    )


@pytest.fixture(scope="module")
def theirs():
    """A CLIPModel of transformers."""
    import transformers

    tower = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = tower | dict(vocab_size=60, max_position_embeddings=8, eos_token_id=59)
    vision = tower | dict(image_size=32, patch_size=16)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def arrays(path, settings=None):
    return foreign_checkpoint.open_checkpoint(path, settings).read(lambda _, array: np.array(array))


@pytest.fixture
def same(model, tmp_path):
    """Fails unless a file holds the model of open_clip."""
    import torch

    torch.save(model.state_dict(), tmp_path / "plain.pt")
    expected = arrays(tmp_path / "plain.pt", SETTINGS)

    def check(path):
        result = arrays(path, SETTINGS)
        assert result.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(result[name], array)

    return check


def lightning(model):
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": argparse.Namespace(lr=1e-4, model="ViT-B-32"),
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.5)}},
    }


def distributed(model):
    """What DistributedDataParallel saves; DataParallel has the same names, and wants no group of processes."""
    import torch

    return torch.nn.DataParallel(model).state_dict()


def compiled(model):
    import torch

    return torch.compile(model).state_dict()


def checkpointed(model):
    """Blocks within PyTorch's activation checkpointing, which FSDP puts there."""
    import copy

    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = copy.deepcopy(model)
    blocks = model.transformer.resblocks
    for number in range(len(blocks)):
        blocks[number] = checkpoint_wrapper(blocks[number])
    # The wrapper takes its prefix off again in `state_dict`; FSDP's local state dicts keep it.
    return dict(model.named_parameters()) | dict(model.named_buffers())


def open_clip_train(model):
    """As open_clip_train saves an epoch, with its arguments beside it as forks do."""
    import copy

    import torch

    state = {f"module.{name}": value.clone() for name, value in model.state_dict().items()}
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.encode_text(torch.ones(1, 8, dtype=torch.long)).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "name": "run",
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, precision="amp", train_data=None),
        "best": np.float32(0.25),
        "history": np.arange(3.0),
        "counts": collections.Counter("aab") | collections.defaultdict(int, a=1),
        "seen": {1, 2},
        "started": datetime.datetime(2026, 1, 1),
        "folder": pathlib.Path("/tmp"),
        "version": torch.__version__,
    }


WRAPPINGS = {
    "lightning": lightning,
    "ddp": distributed,
    "compiled": compiled,
    "checkpointed": checkpointed,
    "open_clip_train": open_clip_train,
    "fsdp": lambda model: {f"_fsdp_wrapped_module.{name}": value for name, value in model.state_dict().items()},
    "model": lambda model: {"model": model.state_dict(), "scaler": None},
    "ema": lambda model: {"model_state_dict": model.state_dict(), "step": np.int64(5)},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_files_of_trainers(model, same, tmp_path, name):
    import torch

    for protocol in (2, 4):
        torch.save(WRAPPINGS[name](model), tmp_path / "wrapped.pt", pickle_protocol=protocol)
        same(tmp_path / "wrapped.pt")


def parts_of(model):
    import timm

    timm_tower = timm.create_model("vit_tiny_patch16_224", depth=1)
    return {
        "an image tower of OpenCLIP alone": {f"visual.{k}": v for k, v in model.visual.state_dict().items()},
        "an image tower of OpenCLIP": model.visual.state_dict(),
        "an image tower of timm": timm_tower.state_dict(),
        "a ResNet": timm.create_model("resnet18").state_dict(),
        "a text tower": {k: v for k, v in model.state_dict().items() if not k.startswith("visual.")},
        "adapters of peft": {"base_model.model.q_proj.lora_A.weight": model.text_projection},
    }


def test_parts_of_other_libraries_are_named(model, tmp_path):
    import torch

    for message, state in parts_of(model).items():
        torch.save(state, tmp_path / "part.pt")
        with pytest.raises(UserError, match=message) as error:
            foreign_checkpoint.open_checkpoint(tmp_path / "part.pt")
        assert "\n" not in str(error.value)
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="a pipeline of diffusers"):
        foreign_checkpoint.open_checkpoint(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("CLIPTextModel", "a text tower alone"),
        ("CLIPVisionModel", "an image tower alone"),
        ("CLIPTextModelWithProjection", "a text tower alone"),
        ("SiglipVisionModel", "an image tower alone"),
    ],
)
def test_lone_towers_are_named(theirs, tmp_path, kind, message):
    """Stable Diffusion's text encoder, IP-Adapter's image encoder."""
    import transformers

    part = theirs.config.text_config if "Text" in kind else theirs.config.vision_config
    if kind.startswith("Siglip"):
        part = transformers.SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32
        )
    getattr(transformers, kind)(part).save_pretrained(tmp_path / "tower")
    if "Vision" in kind:  # which is read with its config
        (tmp_path / "tower" / "config.json").unlink()
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(tmp_path / "tower")
    assert "\n" not in str(error.value)


def test_the_hubs_cache_and_sentence_transformers(theirs, tmp_path):
    expected = None
    cache, sentences = tmp_path / "models--me--clip", tmp_path / "sentences"
    theirs.save_pretrained(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    theirs.save_pretrained(sentences / "0_CLIPModel")
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (sentences / "modules.json").write_text(json.dumps(modules))
    for path in (cache / "snapshots" / "abc", cache, sentences, f"local-dir:{sentences}"):
        result = arrays(path)
        expected = expected or result
        assert all(np.array_equal(result[name], array) for name, array in expected.items())


def test_long_clip(theirs, model, tmp_path):
    """LongCLIP: as a CLIPModel of 248 positions it is read; its own file has a second table, and is named."""
    import torch
    import transformers

    config = theirs.config.to_dict()
    config["text_config"]["max_position_embeddings"] = 248
    transformers.CLIPModel(transformers.CLIPConfig.from_dict(config)).save_pretrained(tmp_path / "long")
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "long")
    assert opened.settings["text"]["context_length"] == 248
    state = {**model.state_dict(), "positional_embedding_res": torch.zeros(248, 32)}
    state["positional_embedding"] = torch.zeros(248, 32)
    torch.save(state, tmp_path / "longclip.pt")
    with pytest.raises(UserError, match="LongCLIP") as error:
        foreign_checkpoint.open_checkpoint(tmp_path / "longclip.pt", SETTINGS)
    assert "\n" not in str(error.value)
