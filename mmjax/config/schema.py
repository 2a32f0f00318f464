"""The config of a run: its groups of fields, which the rooms have in their `config.py`, and how it is checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_origin

import ml_collections

from mmjax import plugin_imports
from mmjax.config import kinds
from mmjax.config.field_values import options_of
from mmjax.config.typed_groups import defaults, field_type, parse_group
from mmjax.data.config import DataConfig
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation.config import DecodingConfig, EvalConfig
from mmjax.models.config import ModelConfig
from mmjax.models.variants import two_tower
from mmjax.objectives.config import LossConfig, ObjectiveWeights
from mmjax.parallel.config import MeshConfig
from mmjax.training.config import CheckpointConfig, LogConfig, OptimizerConfig, ScheduleConfig

ConfigDict = ml_collections.ConfigDict


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every field of a run."""

    name: str = "clip"
    """of the run: report titles, W&B"""
    variant: str = "B/32"
    """label of the model's size in results"""
    plugins: tuple[str, ...] = ()
    """modules of others that register sources, models, ...; base_config(plugins=...) and --plugins import them"""
    seed: int = 0
    """of initialisation, data order, crops, dropout"""
    steps: int = 10_000
    """optimizer updates"""
    batch_size: int = 1024
    """pairs per update over all devices"""
    microbatch: int = 1
    """pieces the model runs in, one after the other; the loss always sees the whole batch"""
    model: ModelConfig
    """the model's size, by its kind; see mmjax/models/variants/"""
    objectives: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    """weight of each objective"""
    init_from: str = ""
    """workdir, weights of OpenCLIP, Hugging Face or big_vision, or a tower of transformers', to start from"""
    init_paths: tuple[str, ...] = (".*",)
    """path regexes, or names of towers, of what is taken from there; the rest is new. '.*' takes what is there"""
    init_map: tuple[tuple[str, str], ...] = ()
    """(regex of a path there, replacement) pairs that rename it, first match wins; else by name and by tower"""
    data: DataConfig = field(default_factory=DataConfig)
    """what is trained and evaluated on, and how it is prepared"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """the update rule, and which parameters it changes by how much"""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """the learning rate over the steps"""
    ema_decay: float = 0.0
    """of a moving average of the parameters, which is then what is evaluated; 0 = off"""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """how devices are laid out"""
    loss: LossConfig = field(default_factory=LossConfig)
    """how the losses are computed"""
    attention: Literal["auto", "cudnn", "pallas", "xla"] = "auto"
    """kernel: 'auto' takes cuDNN's on NVIDIA and mmjax's own on TPUs where they apply; cudnn, pallas (TPU), xla"""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """compute type of the towers: bfloat16 or float32; parameters stay float32"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """which steps are saved, and which of them are kept"""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """when a run is evaluated"""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """how text is written in evaluation"""
    log: LogConfig = field(default_factory=LogConfig)
    """lines of numbers, and where they go"""
    deterministic: bool | Literal["auto"] = "auto"
    """the same bits on every run on the same devices: true, false, or 'auto' where that is free (CPU, TPU; not GPU)"""
    compilation_cache: str = "auto"
    """folder; 'auto' = the user's cache folder, off on CPU; '' = off"""
    xla_flags: str = ""
    """added to XLA_FLAGS before the devices start, behind what mmjax sets"""


def base_config(variant: str = "B/32", plugins: Sequence[str] = ()) -> ConfigDict:
    """Returns every field a recipe may set, with its default, locked: a misspelt field is an error.

    Args:
      variant: size of the model.
      plugins: modules of others that register what the config names; they are imported, see `plugin_imports`.

    Raises:
      UserError: an unknown size, or a plugin that is missing or fails.
    """
    plugin_imports.import_installed()
    modules = plugin_imports.import_plugins(plugins)
    kinds.check_added()
    # The model's fields stay those of its size: what a stored config lacks is what its classes have.
    model = two_tower.variant(variant) | {"init": ModelConfig.init}
    fields = {
        entry.name: entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        for entry in dataclasses.fields(RunConfig)
    }
    as_plain = lambda value: defaults(type(value)) if dataclasses.is_dataclass(value) else value
    config = ConfigDict({name: as_plain(value) for name, value in fields.items() if name != "model"})
    config.variant = variant
    config.plugins = modules
    config.model = model
    accept_unions(config)
    return config.lock()


def parse(config: ConfigDict | Mapping[str, Any], origin: str = "") -> RunConfig:
    """The typed tree of a config.

    Args:
      config: of a run; whoever gave it.
      origin: who did, such as '--config=clip'; messages begin with it.

    Raises:
      UserError: an unknown field, a missing one, or a value of another type; names the field, the value and the remedy.
    """
    try:
        return parse_group(RunConfig, config)
    except UserError as error:
        if not origin:
            raise
        raise UserError(f"{origin}: {error}") from None


def set_group(config: ConfigDict, path: str, settings: Mapping[str, Any]) -> None:
    """Exchanges a group of the model whose fields depend on its kind, and locks the config.

    Args:
      config: changed in place; as it was where an error is raised.
      path: `model`, or a group in it, such as `model.fusion` or `model.encoders.image`.
      settings: all fields of the new group, with its `kind`.

    Raises:
      UserError: there is no such group, or the settings are not its kind's; see `parse`.
    """
    if not isinstance(settings, ConfigDict | Mapping):
        raise UserError(f"{path}={settings!r} wants a group of fields, with its kind")
    parents = path.split(".")
    tree = {"model": config.to_dict()["model"]}
    node: Any = tree
    for name in parents[:-1]:
        node = node.get(name)
        if not isinstance(node, dict):
            raise UserError(f"{path} is no group of the model{did_you_mean(path, _groups('model', tree['model']))}")
    if parents[0] != "model":
        raise UserError(f"{path}: only the model and its groups have a kind; set the fields of {path} one by one")
    node[parents[-1]] = ConfigDict(settings).to_dict()  # of a locked one, too, whose groups are locked
    parse_group(ModelConfig, tree["model"], "model")
    model = ConfigDict(tree["model"])
    accept_unions(model, ModelConfig)
    with config.unlocked(), config.ignore_type():
        config.model = model
    config.lock()


def _groups(path: str, settings: Mapping[str, Any]) -> list[str]:
    inner = [_groups(f"{path}.{name}", value) for name, value in settings.items() if isinstance(value, Mapping)]
    return [path, *(name for names in inner for name in names)]


def accept_unions(config: ConfigDict, cls: type = RunConfig) -> None:
    """Lets fields of several types change between them, which a ConfigDict refuses, such as true, false or 'auto'."""

    def accept(group: ConfigDict, path: tuple[str, ...]) -> None:
        for name, value in group.items():
            if isinstance(value, ConfigDict):
                accept(value, (*path, name))
            elif len(set(map(_kind_of_value, options_of(field_type(cls, config, (*path, name))))) - {type(None)}) > 1:
                del group[name]
                group[name] = ml_collections.FieldReference(value, field_type=object)

    accept(config, ())


def _kind_of_value(option: Any) -> type:
    """What a ConfigDict tells apart of a type: it takes integers for floats, and None for anything."""
    if get_origin(option) is Literal:
        return str
    return float if option is int else get_origin(option) or option
