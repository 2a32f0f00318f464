"""Registries: all classes and functions that a config names, ours and those of others.

A name of ours stands for `module:attribute`, whose module is imported when the name is used. Code of others registers
what it brings; `mmjax.plugin_imports` says which modules that are, and when they are imported:

    from mmjax.plugin import sources

    @sources.register("mine", ":FILE")
    class Mine: ...
"""

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from mmjax.errors import UserError, did_you_mean

Item = TypeVar("Item")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FORM = re.compile(r"|:\S+|\[/\S+\]")


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What a name stands for.

    Attributes:
      target: a class or function; of ours `module:attribute`.
      form: what follows the name where it is written.
      config: the dataclass of its fields; of ours `module:attribute`; None where it has none.
      module, line: that registered it: its name; its code and the line there, () of ours.
    """

    target: Any
    form: str
    config: type | str | None
    module: str
    line: tuple[Any, ...] = ()


class Registry:
    """Classes or functions of one kind by name, in the order in which they are listed and registered.

    Args:
      kind: what they are, for errors, such as "source".
      ours: "module:attribute" by name.
      forms: what follows a name where it is written, such as ":FILE"; nothing where it is left out.
      configs: "module:attribute" of the dataclasses of their fields, by name.
      fields: whether those of others have such a dataclass: `never`, `maybe` or `always`.
    """

    def __init__(
        self,
        kind: str,
        ours: Mapping[str, str],
        forms: Mapping[str, str] | None = None,
        configs: Mapping[str, str] | None = None,
        fields: Literal["never", "maybe", "always"] = "maybe",
    ):
        self._has_form, self._fields = forms is not None, fields
        forms, configs = forms or {}, configs or {}
        self.kind = kind
        self._entries = {
            name: _Entry(target, forms.get(name, ""), configs.get(name), target.partition(":")[0])
            for name, target in ours.items()
        }
        self._ours = frozenset(ours)
        self._absent: dict[str, str] = {}

    def register(self, name: str, form: str = "", *, config: type | None = None) -> Callable[[Item], Item]:
        """A decorator that registers a class or a function.

        What a module that runs again registers (a recipe, `importlib.reload`) takes the place of what it had before.

        Args:
          name: lower-case letters, digits and underscores.
          form: what follows the name where it is written: ":FILE", "[/SPLIT]", or nothing.
          config: the frozen dataclass of its fields, where it has any.

        Raises:
          UserError: the name is taken (names both modules), or is none.
        """
        caller = sys._getframe(1)
        module, line = caller.f_globals.get("__name__", ""), (caller.f_code, caller.f_lineno)
        where = f"{self.kind} {name!r} of {module}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: a name has lower-case letters, digits and _, and begins with a letter")
        if not isinstance(form, str) or not _FORM.fullmatch(form):
            call = "" if isinstance(form, str) else f"; write register({name!r})(...) of what is registered"
            raise UserError(f"{where}: form={form!r} must be ':SOMETHING', '[/SOMETHING]' or ''{call}")
        if (form and not self._has_form) or (config is not None and self._fields == "never"):
            raise UserError(f"{where}: {'form' if form else 'config'} means nothing for {self.kind}s; leave it out")
        if config is None and self._fields == "always":
            raise UserError(f"{where}: config is missing; give the dataclass of its fields, which has kind = {name!r}")
        if config is not None and not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            raise UserError(f"{where}: config={config!r} must be a dataclass, such as @dataclass(frozen=True)")

        def add(target: Item) -> Item:
            known = self._entries.get(name)
            if known is not None and known.module != module:
                raise UserError(f"{where} has the name of one of {known.module}; give it another name")
            # A module that runs anew has other code.
            is_again = known is not None and known.line[:1] == line[:1] and known.line != line
            if known is not None and (is_again or _qualname(known.target) != _qualname(target)):
                both = f"{_qualname(known.target)} and {_qualname(target)}"
                raise UserError(f"{where} is registered twice, for {both}; give one of them another name")
            self._entries[name] = _Entry(target, form, config, module, line)
            return target

        return add

    def load(self, name: str, *, where: str) -> Any:
        """The class or function of a name.

        Args:
          where: the config field and its value, to begin the error with.

        Raises:
          UserError: the name is unknown; the nearest one is given, and all of them.
        """
        return _resolve(self._entry(name, where).target)

    def config_class(self, name: str, *, where: str) -> Any:
        """The dataclass of a name's fields, None where it has none; arguments and errors as of `load`."""
        return _resolve(self._entry(name, where).config)

    def _entry(self, name: str, where: str) -> _Entry:
        if name not in self:
            raise self.unknown(name, where=where)
        return self._entries[name]

    def validate_choice(self, field: str, name: Any, value: Any = None) -> str:
        """Returns `name` where it is registered.

        Args:
          field: of the config, to begin the error with.
          value: of the field, where the name is a part of it.

        Raises:
          UserError: it is not; the nearest one is given, and all of them.
        """
        if name in self:
            return name
        where = f"{field}={(name if value is None else value)!r}"
        if isinstance(name, str) and name in self._absent:
            raise self.unknown(name, where=where)
        raise UserError(f"{where} is not known{self._near(name)}; choose one of: {', '.join(self.written())}")

    def unknown(self, name: Any, *, where: str) -> UserError:
        """The error of a name that is not registered; arguments as of `load`."""
        if name in self._absent:
            return UserError(f"{where}: {self.kind} {name!r} is {self._absent[name]}")
        return UserError(f"{where}: unknown {self.kind} {name!r}{self._near(name)}; {self.usage()}")

    def _near(self, name: Any) -> str:
        lower = str(name).lower()
        return f" (did you mean {lower!r}?)" if lower in self else did_you_mean(lower, self)

    def note_absent(self, name: str, remedy: str) -> None:
        """Remembers who would register a name; what the error of a name that is not registered says instead."""
        self._absent[name] = remedy

    def absent(self) -> dict[str, str]:
        """Who would register names that nobody here has registered, as `note_absent` remembers it."""
        return {name: remedy for name, remedy in self._absent.items() if name not in self}

    def form(self, name: str) -> str:
        """What follows a name where it is written."""
        return self._entries[name].form if name in self else ""

    def added(self) -> list[str]:
        """The names that are not ours."""
        return [name for name in self._entries if name not in self._ours]

    def module(self, name: str) -> str:
        """The module that registered a name."""
        return self._entries[name].module

    def describe(self, name: str) -> str:
        """A name with its kind and the module that registered it, as messages begin with."""
        return f"{self.kind} {name!r} of {self.module(name)}"

    def written(self) -> list[str]:
        """All names with what follows them."""
        return [name + entry.form for name, entry in self._entries.items()]

    def usage(self) -> str:
        """How all names are written, as the end of an error."""
        return f"write {' or '.join(filter(None, [', '.join(self.written()[:-1]), self.written()[-1]]))}"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _qualname(target: Any) -> str:
    """The name of a class or function; of another object its class's."""
    return target if isinstance(target, str) else getattr(target, "__qualname__", type(target).__qualname__)


def _resolve(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


# `data.train`, `data.eval`: made from what follows the name, see `data.mixture`.
sources = Registry(
    "source",
    {
        "digits": "mmjax.data.sources.digits:Digits",
        "shapes": "mmjax.data.sources.shapes:Shapes",
        "questions": "mmjax.data.sources.questions:Questions",
        "sensors": "mmjax.data.sources.sensors:Sensors",
        "moving": "mmjax.data.sources.moving:Moving",
        "actions": "mmjax.data.sources.actions:Actions",
        "tones": "mmjax.data.sources.tones:Tones",
        "synthetic": "mmjax.data.sources.synthetic:Synthetic",
        "pairs": "mmjax.data.sources.pairs:Pairs",
        "files": "mmjax.data.sources.files:Files",
        "librispeech": "mmjax.data.sources.librispeech:LibriSpeech",
        "folder": "mmjax.data.sources.folder:Folder",
        "karpathy": "mmjax.data.sources.karpathy:Karpathy",
        "vqa": "mmjax.data.sources.vqa:Vqa",
        "sugarcrepe": "mmjax.data.sources.sugarcrepe:SugarCrepe",
        "winoground": "mmjax.data.sources.winoground:Winoground",
        "wds": "mmjax.data.sources.wds:WebDataset",
        "parquet": "mmjax.data.sources.parquet:Parquet",
        "tfds": "mmjax.data.sources.tfds:Tfds",
        "arrayrecord": "mmjax.data.sources.arrayrecord:ArrayRecords",
        "hf": "mmjax.data.sources.hf:HuggingFace",
    },
    forms={
        **dict.fromkeys(("digits", "shapes", "questions", "sensors", "moving", "actions", "tones"), "[/SPLIT]"),
        "synthetic": "[/N]",
        "pairs": ":FILE.{csv,tsv,jsonl,json}",
        **dict.fromkeys(("files", "folder", "librispeech"), ":DIR"),
        "karpathy": ":FILE.json/SPLIT",
        "vqa": ":FILE.{json,jsonl}",
        "sugarcrepe": ":FILE.json",
        "winoground": ":FILE.jsonl",
        **dict.fromkeys(("wds", "parquet", "arrayrecord"), ":PATTERN"),
        "tfds": ":NAME/SPLIT",
        "hf": ":DIR[/SPLIT]",
    },
    fields="never",
)
# `data.tokenizer`: `make(spec, context_length)`, with `path` and `content` where it has a file.
tokenizers = Registry(
    "tokenizer",
    {
        "clip": "mmjax.data.text.clip_bpe:make_clip",
        "bytes": "mmjax.data.text.utf8_bytes:make_bytes",
        "words": "mmjax.data.text.word_vocab:make_words",
        "sentencepiece": "mmjax.data.text.sentencepiece_model:make_sentencepiece",
        "json": "mmjax.data.text.json_encoder:make_json",
    },
    forms={"words": ":PATH", "sentencepiece": ":PATH", "json": ":PATH"},
    fields="never",
)
# `model.kind`: flax modules, and the dataclasses of `model`.
models = Registry(
    "model",
    {
        "two_tower": "mmjax.models.two_tower:TwoTower",
        "captioner": "mmjax.models.captioner:Captioner",
        "coca": "mmjax.models.coca:CoCa",
        "albef": "mmjax.models.albef:ALBEF",
        "vilt": "mmjax.models.vilt:ViLT",
        "qformer": "mmjax.models.qformer:QFormer",
        "blip": "mmjax.models.blip:BLIP",
        "prefix_lm": "mmjax.models.prefix_lm:PrefixLM",
        "fused": "mmjax.models.fusion.classifier:FusedClassifier",
    },
    configs={
        "two_tower": "mmjax.models.config:TwoTowerConfig",
        "captioner": "mmjax.models.config:CaptionerConfig",
        "coca": "mmjax.models.config:CoCaConfig",
        "albef": "mmjax.models.config:ALBEFConfig",
        "vilt": "mmjax.models.config:ViLTConfig",
        "qformer": "mmjax.models.config:QFormerConfig",
        "blip": "mmjax.models.config:BLIPConfig",
        "prefix_lm": "mmjax.models.config:PrefixLMConfig",
        "fused": "mmjax.models.fusion.config:FusedConfig",
    },
    fields="always",
)
_OF_FUSION = "image text video frames audio whisper series table features"
# `model.encoders.NAME.kind`: flax modules that make tokens of one modality, and the dataclasses of their fields.
encoders = Registry(
    "encoder",
    {
        "image": "mmjax.models.encoders:VisionTransformer",
        "resnet": "mmjax.models.conv.resnet:ModifiedResNet",
        "convnext": "mmjax.models.conv.convnext:ConvNeXt",
        "text": "mmjax.models.encoders:TextTransformer",
        "video": "mmjax.models.modality_encoders:VideoTransformer",
        "frames": "mmjax.models.frames_encoder:FramesEncoder",
        "audio": "mmjax.models.modality_encoders:AudioTransformer",
        "whisper": "mmjax.models.whisper_encoder:WhisperEncoder",
        "series": "mmjax.models.modality_encoders:SeriesTransformer",
        "table": "mmjax.models.modality_encoders:TableTransformer",
        "features": "mmjax.models.modality_encoders:FeatureEncoder",
    },
    configs={
        name: f"mmjax.models.{room}config:{name.capitalize()}EncoderConfig"
        for room, names in (("image_", "resnet convnext"), ("fusion.", _OF_FUSION))
        for name in names.split()
    },
    fields="always",
)
_FUSIONS = {
    "pooled": "concat weighted gated attention",
    "tokens": "cross joint bottleneck",
    "kinds": "late hybrid",
    "alone": "alone",
}
# `model.fusion.kind`: flax modules that make one of several modalities, and the dataclasses of their fields.
fusions = Registry(
    "fusion",
    {
        name: f"mmjax.models.fusion.{module}:{name.capitalize()}"
        for module, names in _FUSIONS.items()
        for name in names.split()
    },
    configs={
        name: f"mmjax.models.fusion.config:{name.capitalize()}Config" for name in " ".join(_FUSIONS.values()).split()
    },
    fields="always",
)
# `optimizer.name`: update rules, see `training.update_rules`; fields that a plugin's has are in `optimizer.NAME`.
optimizers = Registry(
    "optimizer",
    {
        "adamw": "mmjax.training.update_rules:ADAMW",
        "lion": "mmjax.training.update_rules:LION",
        "adafactor": "mmjax.training.update_rules:ADAFACTOR",
        "muon": "mmjax.training.update_rules:MUON",
        "sgd": "mmjax.training.update_rules:SGD",
    },
)
# `objectives`: terms of the loss, see `tasks.objective`, added in this order; fields of a plugin's are in `loss.NAME`.
objectives = Registry(
    "objective",
    {
        "itc": "mmjax.tasks.batch_losses:SOFTMAX",
        "sigmoid": "mmjax.tasks.batch_losses:SIGMOID",
        "triplet": "mmjax.tasks.batch_losses:TRIPLET",
        "itm": "mmjax.tasks.batch_losses:MATCHING",
        "caption": "mmjax.tasks.per_example_losses:CAPTION",
        "mlm": "mmjax.tasks.per_example_losses:MASKED_WORDS",
        "mim": "mmjax.tasks.per_example_losses:MASKED_PATCHES",
        "vqa": "mmjax.tasks.per_example_losses:ANSWER",
        "classify": "mmjax.tasks.per_example_losses:CLASSIFY",
    },
)
_EVALUATORS = "mmjax.evaluation.evaluators"
# `eval.tasks`, suites' `tasks`, see `evaluation.evaluation_task`; fields of a plugin's are `eval.NAME`, there `NAME`.
evaluations = Registry(
    "evaluation",
    {
        "zeroshot_classification": f"{_EVALUATORS}.contrastive:ZERO_SHOT_CLASSIFICATION",
        "zeroshot_retrieval": f"{_EVALUATORS}.contrastive:ZERO_SHOT_RETRIEVAL",
        "modality_retrieval": f"{_EVALUATORS}.modality_retrieval:MODALITY_RETRIEVAL",
        "image_captioning": f"{_EVALUATORS}.captioning:IMAGE_CAPTIONING",
        "visual_question_answering": f"{_EVALUATORS}.question_answering:VISUAL_QUESTION_ANSWERING",
        "image_text_matching": f"{_EVALUATORS}.image_text_matching:IMAGE_TEXT_MATCHING",
        "masked_modelling": f"{_EVALUATORS}.masked_modelling:MASKED_MODELLING",
        "multimodal_classification": f"{_EVALUATORS}.multimodal_classification:MULTIMODAL_CLASSIFICATION",
        "image_caption_selection": f"{_EVALUATORS}.caption_similarity:IMAGE_CAPTION_SELECTION",
        "clip_score": f"{_EVALUATORS}.caption_similarity:CLIP_SCORE",
        "knn": f"{_EVALUATORS}.probe_tasks:KNN",
        "few_shot": f"{_EVALUATORS}.probe_tasks:FEW_SHOT",
        "linear_probe": f"{_EVALUATORS}.probe_tasks:LINEAR_PROBE",
    },
)
# `log.writers`, and what `log` switches on by other fields, see `training.metrics_log`.
log_writers = Registry(
    "log writer",
    {
        "jsonl": "mmjax.training.metrics_log:JSONLines",
        "tensorboard": "mmjax.training.tensorboard_writer:TensorBoard",
        "wandb": "mmjax.training.wandb_writer:WandB",
    },
    fields="never",
)

_ALL = (sources, tokenizers, models, encoders, fusions, objectives, optimizers, evaluations, log_writers)
REGISTRIES = {registry.kind: registry for registry in _ALL}
