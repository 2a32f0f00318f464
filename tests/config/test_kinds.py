"""Fields of the models' configs: those of the modules that are made of them, and the choices that these have."""

import dataclasses
import typing

import pytest

from mmjax import registry
from mmjax.config import kinds, schema
from mmjax.config.schema import RunConfig
from mmjax.data.config import DataConfig
from mmjax.data.image import augment, transforms
from mmjax.errors import UserError
from mmjax.evaluation.config import DecodingConfig
from mmjax.models import (
    coca,
    config,
    encoders,
    frames_encoder,
    generation,
    image_config,
    language,
    lstm_captioner,
    make_model,
    prefix_lm,
    slot_config,
    vilt,
)
from mmjax.models.fusion import alone, pooled
from mmjax.models.fusion import config as fusion
from mmjax.models.fusion import kinds as fusions
from mmjax.models.towers_config import TowersConfig
from mmjax.nn import attention_kernels, layer_loop, pool, transformer
from mmjax.nn import config as layers
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.modality_embed import INFLATIONS
from mmjax.objectives import contrastive, triplet
from mmjax.objectives.config import LossConfig
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.tasks import model_outputs
from mmjax.training import schedules
from mmjax.training.config import OptimizerConfig, ScheduleConfig

# What no config has: the compute type and kernels are the run's, names flax's.
_NOT_FIELDS = {"parent", "name", "dtype", "attention_impl", "image_attention", "text_attention"}
_HEAD = {"pool", "projection"}
_IMAGE_HEAD = _HEAD | {"pool_norm", "pool_heads", "pool_mlp_dim"}
_IDS = {"eos_id", "sep_id"}
_OF_LLAMA = {"learned_positions", "embed_scale"}
_MODELS = kinds.classes(config.ModelConfig)
_OF_TRAINING = {"init", "max_logit_scale", "modality_dropout"}

# Config, module, fields that the model itself decides, fields that are not the module's.
PARTS = [
    (config.PatchesConfig, encoders.VisionTransformer, {"final_norm"}, set()),
    (config.VisionConfig, encoders.VisionTransformer, set(), set()),
    (image_config.ImageTowerConfig, encoders.VisionTransformer, set(), _IMAGE_HEAD),
    (config.TextTowerConfig, encoders.TextTransformer, set(), {*_HEAD, "pooler"}),
    (config.DecoderTextConfig, language.TextStack, set(), _IDS),
    (config.PrefixTextConfig, language.TextStack, {"causal", "cross_every", "key_bias"}, _IDS),
    (config.FusedTextConfig, language.TextStack, _OF_LLAMA | {"causal", "cross_every", "head", "key_bias"}, _IDS),
    (config.QFormerTextConfig, language.TextStack, _OF_LLAMA | {"causal", "cross_mlp", "head", "key_bias"}, _IDS),
    (
        config.CoCaTextConfig,
        language.TextStack,
        _OF_LLAMA | {"causal", "final_norm", "head", "key_bias"},
        {*_IDS, "pad_id"},
    ),
    (
        config.BLIPTextConfig,
        language.TextStack,
        _OF_LLAMA | {"causal", "cross_every", "cross_from", "cross_mlp", "head", "key_bias"},
        _IDS,
    ),
    (
        config.StreamTextConfig,
        language.TextStack,
        _OF_LLAMA
        | {"width", "depth", "heads", "mlp_dim", "causal", "cross_every", "final_norm", "head", "key_bias", "block"},
        _IDS,
    ),
    (config.LSTMTextConfig, lstm_captioner.LSTMCaptioner, set(), _IDS | {"context_length"}),
    (config.StreamConfig, vilt.Stream, {"mask_token"}, set()),
    (layers.CrossLayersConfig, transformer.Transformer, {"cross_every", "cross_from", "key_bias"}, set()),
    (
        layers.DecoderLayersConfig,
        transformer.Transformer,
        {"cross_every", "cross_from", "cross_mlp", "norm", "key_bias"},
        set(),
    ),
    *(
        (
            cls,
            make_model.model_class(kind),
            {*slot_config.SLOTS, "pairs"} if cls is config.TwoTowerConfig else set(),
            _OF_TRAINING,
        )
        for kind, cls in kinds.classes(config.ModelConfig).items()
    ),
    (TowersConfig, make_model.model_class("two_tower"), set(), _OF_TRAINING),
    (config.LSTMCaptionerConfig, make_model.model_class("captioner"), set(), _OF_TRAINING),
    *(
        (cls, registry.encoders.load(kind, where=kind), set(), set())
        for kind, cls in kinds.classes(slot_config.EncoderConfig).items()
    ),
    *(
        (
            cls,
            registry.fusions.load(kind, where=kind),
            {"classes", "prefix", *(alone.OF_TOWER if kind == "alone" else ())},
            set(),
        )
        for kind, cls in kinds.classes(fusion.FusionConfig).items()
    ),
]
# The size tables and `read_dataset_metadata` give these; a module is never made without.
_GIVEN_BY_KIND = {("LSTMCaptionerConfig", "decoder"), ("TwoTowerConfig", "image"), ("TwoTowerConfig", "text")}


@pytest.mark.parametrize(
    ("cls", "module", "decided", "others"),
    PARTS,
    ids=[f"{cls.__name__}-{module.__name__}" for cls, module, *_ in PARTS],
)
def test_fields_and_defaults_are_the_modules(cls, module, decided, others):
    defaults = lambda of: {entry.name: entry.default for entry in dataclasses.fields(of)}
    ours = {name: value for name, value in defaults(cls).items() if name not in others}
    theirs = {name: value for name, value in defaults(module).items() if name not in _NOT_FIELDS | decided}
    assert set(others) <= set(defaults(cls))
    assert set(ours) == set(theirs)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {name for owner, name in _GIVEN_BY_KIND if owner == cls.__name__}


def test_every_kind_is_there():
    assert kinds.classes(config.ModelConfig).keys() == set(registry.models)
    assert kinds.classes(slot_config.EncoderConfig).keys() == set(registry.encoders)
    assert kinds.classes(fusion.FusionConfig).keys() == set(registry.fusions)


TOWER_POOLS = set(pool.POOLS)
CHOICES = [
    (layers.LayersConfig, "activation", ACTIVATIONS),
    (layers.LayersConfig, "remat", layer_loop.REMAT_POLICIES),
    (layers.CrossLayersConfig, "norm", transformer.NORMS),
    (config.DecoderTextConfig, "head", language.HEADS),
    (image_config.ImageTowerConfig, "pool", TOWER_POOLS - {"eos"}),
    (config.TextTowerConfig, "pool", TOWER_POOLS),
    (config.TextTowerConfig, "positions", set(encoders.POSITIONS)),
    (config.CoCaConfig, "class_token_mask", set(coca.CLASS_TOKEN_MASKS)),
    (config.PrefixLMConfig, "connector", prefix_lm.CONNECTORS),
    (config.PrefixLMConfig, "prefix", prefix_lm.PREFIXES),
    (DecodingConfig, "method", generation.METHODS),
    (fusion.LateConfig, "combine", fusions.COMBINATIONS),
    (fusion.LateConfig, "pool", pooled.POOLS),
    (fusion.VideoEncoderConfig, "tubelet_init", ("normal", *INFLATIONS)),
    (fusion.FramesEncoderConfig, "frame_pool", frames_encoder.FRAME_POOLS),
    (fusion.FramesEncoderConfig, "temporal", frames_encoder.TEMPORAL),
    (LossConfig, "impl", contrastive.IMPLEMENTATIONS),
    (LossConfig, "triplet_negatives", triplet.NEGATIVES),
    (MeshConfig, "sharding", partition.PRESETS),
    (ScheduleConfig, "name", schedules.SCHEDULES),
    (DataConfig, "interpolation", transforms.RESAMPLING),
    (DataConfig, "image_rule", transforms.RULES),
    (DataConfig, "train_resize", transforms.TRAIN_RESIZE),
    (DataConfig, "randaugment_policy", augment.POLICIES),
    (RunConfig, "attention", attention_kernels.IMPLEMENTATIONS),
    (RunConfig, "precision", model_outputs.DTYPES),
]


@pytest.mark.parametrize(
    ("cls", "field", "known"), CHOICES, ids=[f"{cls.__name__}-{field}" for cls, field, _ in CHOICES]
)
def test_choices_are_those_that_the_code_has(cls, field, known):
    assert set(typing.get_args(typing.get_type_hints(cls)[field])) == set(known)


def test_optimizers_are_documented():
    from mmjax.config.field_docs import field_docs

    assert field_docs(OptimizerConfig)["name"] == ", ".join(registry.optimizers)


def test_the_group_of_another_config_is_taken_though_it_is_locked():
    config, other = schema.base_config(), schema.base_config("tiny-coca")
    schema.set_group(config, "model", other.model)
    assert config.model.to_dict() == other.model.to_dict() and config.is_locked and config.model.text.is_locked
    config.model.text.width = 64
    assert other.model.text.width != 64


@pytest.mark.parametrize("settings", [None, 3, "coca", [("kind", "coca")]])
def test_a_group_that_is_none_is_a_mistake(settings):
    config = schema.base_config()
    before = config.to_dict()
    with pytest.raises(UserError, match="model=.* wants a group of fields"):
        schema.set_group(config, "model", settings)
    assert config.to_dict() == before and config.is_locked
