"""The models that OpenCLIP lists, of their real shapes: as a file alone, and with its config beside it.

What the loader makes of each is held against the live model. It is right, or it asks, or it says what it does not read.
"""

import collections
import json
import re

import pytest

from mmjax.errors import UserError
from mmjax.interop import bert_towers, foreign_checkpoint, model_settings, published_towers
from tests.helpers import campaign
from tests.helpers.published_models import architecture, build, settings_of, write_shapes

pytestmark = pytest.mark.full
MODELS, READ = 144, 109


def chosen_models():
    """The listed models that are read, and two of an architecture that is not; all of them under `make campaign`."""
    import open_clip

    names, refused, chosen = open_clip.list_models(), collections.Counter(), []
    for name in names:
        word = architecture(open_clip.get_model_config(name))
        refused[word] += 1
        if not word or refused[word] <= 2:
            chosen.append(name)
    assert len(names) == MODELS and refused[None] == READ
    return campaign.some(names, chosen)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By name: what became of the file alone, and of the folder with its config."""
    import open_clip

    results = {}
    for name in chosen_models():
        config = open_clip.get_model_config(name)
        folder = tmp_path_factory.mktemp("model")
        model = build(config, folder)
        file = folder / "open_clip_model.safetensors"
        write_shapes(file, model)
        live = None if architecture(config) else settings_of(model)
        alone = _outcome(file, live)
        (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config)))
        results[name] = config, alone, _outcome(folder, live)
        file.unlink()
    return results


def _outcome(path, live):
    """What a person meets: the fields that are asked for, or why the file is refused, and where it then is wrong.

    Args:
      path: of the model.
      live: the live model's settings, from which questions are answered; None for an architecture that is not read.
    """
    missing = {}
    try:
        settings = foreign_checkpoint.open_checkpoint(path).settings
        return (
            dict(read=settings["kind"]) if "kind" in settings else dict(missing={}, wrong=_differences(settings, live))
        )
    except UserError as error:
        if "--model-config" not in str(error):
            return dict(refused=str(error))
        missing = dict.fromkeys(re.findall(r"--model-config (\S+)=", str(error)))
    for field in missing:
        tower = field.split(".")[0] if "." in field else "image"
        missing[field] = live[tower][field.split(".")[-1]]
    return dict(missing=missing, wrong=_differences(foreign_checkpoint.open_checkpoint(path, missing).settings, live))


def _differences(settings, live):
    """Fields in which the loader's settings are not the model's; all that decide what it computes are compared."""
    ways = ("scan", "remat", "remat_keep", "dropout", "drop_path", "patch_dropout", "crop_to_patches", "layer_scale")
    top = dict(embed_dim=settings["embed_dim"], has_bias=settings["logit_bias_init"] is not None)
    wrong = [name for name, value in top.items() if live[name] != value]
    for tower in ("image", "text"):
        fields, ours = (model_settings.full_tower(tower, side[tower]) for side in (live, settings))
        unread = {*ways, *(["eos_id"] if fields["pool"] != "eos" else [])}
        if tower == "image" and "kind" not in fields:  # none is as many as the layers have
            ours = ours | dict(pool_heads=ours["pool_heads"] or ours["heads"])
            ours = ours | dict(pool_mlp_dim=ours["pool_mlp_dim"] or ours["mlp_dim"])
            fields = fields | dict(pool_heads=fields["pool_heads"] or fields["heads"])
            fields = fields | dict(pool_mlp_dim=fields["pool_mlp_dim"] or fields["mlp_dim"])
        wrong += [f"{tower}.{name}" for name in ours if name not in {*fields, *unread}]
        wrong += [f"{tower}.{name}" for name, value in fields.items() if ours[name] != value]
    return wrong


def test_files_alone(outcomes):
    counts = {"right": 0, "asked for": 0, "refused": 0}
    for name, (config, alone, _) in outcomes.items():
        word = architecture(config)
        if word:
            assert word in alone["refused"] or word == "none of SigLIP's", name
            assert "not read" in alone["refused"] or word == "CoCa", name
            counts["refused"] += 1
        else:
            assert alone["wrong"] == [] and len(alone["missing"]) <= 1 + name.startswith("convnext"), (name, alone)
            counts["asked for" if alone["missing"] else "right"] += 1
    assert counts == {"right": 43, "asked for": 66, "refused": len(outcomes) - READ}


def is_known_alone(config):
    """Whether a published model's tower is one of a kind: CLIPA's, and timm's but for SigLIP's."""
    vision = config["vision_cfg"]
    timm = vision.get("timm_model_name", "")
    return vision.get("pool_type") == "avg" or bool(timm) and "siglip" not in timm and "convnext" not in timm


def test_what_is_asked_for(outcomes):
    """The activation of a CLIP, and the pixels of So400m/14, of which two sizes have 27 patches a side."""
    for name, (config, alone, _) in outcomes.items():
        if not architecture(config):
            if is_known_alone(config):
                assert not alone["missing"], name
                continue
            if isinstance(config["vision_cfg"].get("layers"), list) or name.startswith("convnext"):
                pixels = ["image.image_size"] * name.startswith("convnext")
                assert list(alone["missing"]) == [*pixels, "text.activation"], name
                continue
            siglip, activation = "SigLIP" in name, "image.activation" if "roberta" in name else "activation"
            pixels = siglip and "-14-" in name and config["vision_cfg"]["image_size"] in (378, 384)
            assert list(alone["missing"]) == (["image.image_size"] if pixels else [] if siglip else [activation]), name


def test_texts_are_cleaned_as_their_configs_say(outcomes):
    """A tokenizer's file beside weights alone is that of the vocabulary's model."""
    for name, (config, _, _) in outcomes.items():
        if not architecture(config):
            text = config["text_cfg"]
            vocabulary = bert_towers.PUBLISHED.get(text.get("hf_model_name"), text)["vocab_size"]
            published = published_towers.tokenizer("siglip" if "SigLIP" in name else "clip", vocabulary)
            assert published.get("tokenizer_kwargs") == text.get("tokenizer_kwargs"), name
            assert ("hf_tokenizer_name" in published) == ("hf_tokenizer_name" in text), name


def test_with_their_configs(outcomes):
    """Nothing is asked for, and what is not read is refused."""
    counts = {"right": 0, "refused": 0}
    for name, (config, _, beside) in outcomes.items():
        word = architecture(config)
        if word == "CoCa" and "hf_model_name" not in config["text_cfg"]:  # its numbers are in `campaigns.coca_models`
            assert beside == dict(read="coca"), name
        elif word:
            assert word in beside["refused"], name
        else:
            assert beside == dict(missing={}, wrong=[]), name
        counts["refused" if word else "right"] += 1
    assert counts == {"right": READ, "refused": len(outcomes) - READ}
