"""The stable surface: all of mmjax that a plugin may import; see docs/extending.md.

What is here keeps its name and meaning from one release to the next, and what changes is in CHANGELOG.md. A name is
imported when it is used: `from mmjax.plugin import sources` imports neither jax nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmjax.config.schema import RunConfig as RunConfig
    from mmjax.data.bad_example import REASONS as REASONS
    from mmjax.data.bad_example import BadExample as BadExample
    from mmjax.data.record import Record as Record
    from mmjax.data.record import check_index as check_index
    from mmjax.data.record import stable_id as stable_id
    from mmjax.data.source_protocols import HasAnswers as HasAnswers
    from mmjax.data.source_protocols import HasClassCodes as HasClassCodes
    from mmjax.data.source_protocols import HasHardNegatives as HasHardNegatives
    from mmjax.data.source_protocols import HasImageGroups as HasImageGroups
    from mmjax.data.source_protocols import HasModalities as HasModalities
    from mmjax.data.source_protocols import MayBeMultilabel as MayBeMultilabel
    from mmjax.data.source_protocols import Sharded as Sharded
    from mmjax.data.source_protocols import Source as Source
    from mmjax.data.source_protocols import SourceOptions as SourceOptions
    from mmjax.data.text.tokenizer import Tokenizer as Tokenizer
    from mmjax.errors import UserError as UserError
    from mmjax.errors import did_you_mean as did_you_mean
    from mmjax.errors import validate_choice as validate_choice
    from mmjax.evaluation.config import EvaluationSettings as EvaluationSettings
    from mmjax.evaluation.evaluation_task import EvaluatedModel as EvaluatedModel
    from mmjax.evaluation.evaluation_task import EvaluatedSource as EvaluatedSource
    from mmjax.evaluation.evaluation_task import EvaluationTask as EvaluationTask
    from mmjax.evaluation.evaluation_task import Outcome as Outcome
    from mmjax.evaluation.example_selection import Artifacts as Artifacts
    from mmjax.evaluation.example_selection import Matching as Matching
    from mmjax.evaluation.results import Evaluation as Evaluation
    from mmjax.io.reader import Reader as Reader
    from mmjax.models.config import ContrastConfig as ContrastConfig
    from mmjax.models.config import ImageTextConfig as ImageTextConfig
    from mmjax.models.config import ModelConfig as ModelConfig
    from mmjax.models.encoders import Encoded as Encoded
    from mmjax.models.encoders import TransformerTower as TransformerTower
    from mmjax.models.encoders import build as build
    from mmjax.models.fusion.config import FusionConfig as FusionConfig
    from mmjax.models.fusion.config import LateConfig as LateConfig
    from mmjax.models.fusion.config import LayeredConfig as LayeredConfig
    from mmjax.models.fusion.config import ModalityTowerConfig as ModalityTowerConfig
    from mmjax.models.fusion.config import PoolingConfig as PoolingConfig
    from mmjax.models.fusion.kinds import Late as Late
    from mmjax.models.fusion.pooled import Fusion as Fusion
    from mmjax.models.fusion.pooled import Layered as Layered
    from mmjax.models.fusion.pooled import Pooling as Pooling
    from mmjax.models.fusion.pooled import prepare as prepare
    from mmjax.models.fusion_model import FusionModel as FusionModel
    from mmjax.models.image_config import ImageConfig as ImageConfig
    from mmjax.models.image_config import VisionConfig as VisionConfig
    from mmjax.models.image_text import ContrastiveModel as ContrastiveModel
    from mmjax.models.image_text import ImageTextModel as ImageTextModel
    from mmjax.models.image_text import l2_normalize as l2_normalize
    from mmjax.models.modality_encoders import ModalityTower as ModalityTower
    from mmjax.models.slot_config import EncoderConfig as EncoderConfig
    from mmjax.models.text_config import TextConfig as TextConfig
    from mmjax.models.writing_model import WritingModel as WritingModel
    from mmjax.nn.attention import AttentionSpec as AttentionSpec
    from mmjax.nn.config import NOISE as NOISE
    from mmjax.nn.config import LayersConfig as LayersConfig
    from mmjax.nn.config import TowerConfig as TowerConfig
    from mmjax.nn.layers import fold_keys as fold_keys
    from mmjax.nn.pool import Pool as Pool
    from mmjax.nn.transformer import Transformer as Transformer
    from mmjax.objectives.config import LossConfig as LossConfig
    from mmjax.objectives.token_loss import TokenLoss as TokenLoss
    from mmjax.objectives.token_loss import over_tokens as over_tokens
    from mmjax.registry import encoders as encoders
    from mmjax.registry import evaluations as evaluations
    from mmjax.registry import fusions as fusions
    from mmjax.registry import log_writers as log_writers
    from mmjax.registry import models as models
    from mmjax.registry import objectives as objectives
    from mmjax.registry import optimizers as optimizers
    from mmjax.registry import sources as sources
    from mmjax.registry import tokenizers as tokenizers
    from mmjax.tasks.objective import BatchFeatures as BatchFeatures
    from mmjax.tasks.objective import GlobalBatch as GlobalBatch
    from mmjax.tasks.objective import Objective as Objective
    from mmjax.tasks.objective import Settings as Settings
    from mmjax.training.config import LogConfig as LogConfig
    from mmjax.training.config import OptimizerConfig as OptimizerConfig
    from mmjax.training.metrics_log import LogWriter as LogWriter
    from mmjax.training.update_rules import UpdateRule as UpdateRule
    from mmjax.utils.random_streams import ExampleStream as ExampleStream

# The module of each name, as above.
_MODULES = {
    "RunConfig": "mmjax.config.schema",
    "REASONS": "mmjax.data.bad_example",
    "BadExample": "mmjax.data.bad_example",
    "Record": "mmjax.data.record",
    "check_index": "mmjax.data.record",
    "stable_id": "mmjax.data.record",
    "HasAnswers": "mmjax.data.source_protocols",
    "HasClassCodes": "mmjax.data.source_protocols",
    "HasHardNegatives": "mmjax.data.source_protocols",
    "HasImageGroups": "mmjax.data.source_protocols",
    "HasModalities": "mmjax.data.source_protocols",
    "MayBeMultilabel": "mmjax.data.source_protocols",
    "Sharded": "mmjax.data.source_protocols",
    "Source": "mmjax.data.source_protocols",
    "SourceOptions": "mmjax.data.source_protocols",
    "Tokenizer": "mmjax.data.text.tokenizer",
    "UserError": "mmjax.errors",
    "did_you_mean": "mmjax.errors",
    "validate_choice": "mmjax.errors",
    "EvaluationSettings": "mmjax.evaluation.config",
    "EvaluatedModel": "mmjax.evaluation.evaluation_task",
    "EvaluatedSource": "mmjax.evaluation.evaluation_task",
    "EvaluationTask": "mmjax.evaluation.evaluation_task",
    "Outcome": "mmjax.evaluation.evaluation_task",
    "Artifacts": "mmjax.evaluation.example_selection",
    "Matching": "mmjax.evaluation.example_selection",
    "Evaluation": "mmjax.evaluation.results",
    "Reader": "mmjax.io.reader",
    "ContrastConfig": "mmjax.models.config",
    "ImageConfig": "mmjax.models.image_config",
    "ImageTextConfig": "mmjax.models.config",
    "ModelConfig": "mmjax.models.config",
    "TextConfig": "mmjax.models.text_config",
    "VisionConfig": "mmjax.models.image_config",
    "Encoded": "mmjax.models.encoders",
    "TransformerTower": "mmjax.models.encoders",
    "build": "mmjax.models.encoders",
    "EncoderConfig": "mmjax.models.slot_config",
    "FusionConfig": "mmjax.models.fusion.config",
    "LateConfig": "mmjax.models.fusion.config",
    "LayeredConfig": "mmjax.models.fusion.config",
    "ModalityTowerConfig": "mmjax.models.fusion.config",
    "PoolingConfig": "mmjax.models.fusion.config",
    "Late": "mmjax.models.fusion.kinds",
    "Fusion": "mmjax.models.fusion.pooled",
    "Layered": "mmjax.models.fusion.pooled",
    "Pooling": "mmjax.models.fusion.pooled",
    "prepare": "mmjax.models.fusion.pooled",
    "FusionModel": "mmjax.models.fusion_model",
    "ContrastiveModel": "mmjax.models.image_text",
    "ImageTextModel": "mmjax.models.image_text",
    "l2_normalize": "mmjax.models.image_text",
    "ModalityTower": "mmjax.models.modality_encoders",
    "WritingModel": "mmjax.models.writing_model",
    "AttentionSpec": "mmjax.nn.attention",
    "NOISE": "mmjax.nn.config",
    "LayersConfig": "mmjax.nn.config",
    "TowerConfig": "mmjax.nn.config",
    "fold_keys": "mmjax.nn.layers",
    "Pool": "mmjax.nn.pool",
    "Transformer": "mmjax.nn.transformer",
    "LossConfig": "mmjax.objectives.config",
    "TokenLoss": "mmjax.objectives.token_loss",
    "over_tokens": "mmjax.objectives.token_loss",
    "encoders": "mmjax.registry",
    "evaluations": "mmjax.registry",
    "fusions": "mmjax.registry",
    "log_writers": "mmjax.registry",
    "models": "mmjax.registry",
    "objectives": "mmjax.registry",
    "optimizers": "mmjax.registry",
    "sources": "mmjax.registry",
    "tokenizers": "mmjax.registry",
    "BatchFeatures": "mmjax.tasks.objective",
    "GlobalBatch": "mmjax.tasks.objective",
    "Objective": "mmjax.tasks.objective",
    "Settings": "mmjax.tasks.objective",
    "LogConfig": "mmjax.training.config",
    "OptimizerConfig": "mmjax.training.config",
    "LogWriter": "mmjax.training.metrics_log",
    "UpdateRule": "mmjax.training.update_rules",
    "ExampleStream": "mmjax.utils.random_streams",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"mmjax.plugin has no {name!r}; it has {', '.join(_MODULES)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return list(_MODULES)
