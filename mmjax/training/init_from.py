"""Pretrained parameters to start from: all that a source has, or those whose paths match (LiT: the image tower).

What is taken, made anew for another size, left there and left fresh is logged and written to `init_from.json`.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.interop import run_config
from mmjax.models.config import ContrastConfig
from mmjax.nn.low_rank import is_adapter
from mmjax.parallel import log, partition
from mmjax.tasks import DatasetMetadata
from mmjax.training import init_names, init_source, init_towers, param_roles, validate_run
from mmjax.training.init_source import Source
from mmjax.training.init_towers import Table, Tower
from mmjax.training.state import TrainState

EVERYTHING = (".*",)  # as `init_paths`: what the source has; any other pattern must be served
FILE = "init_from.json"


@dataclasses.dataclass(frozen=True)
class Taken:
    """What is taken of a source; arrays only once they are read.

    Attributes:
      source: its name.
      arrays: by path; empty where they were not read.
      paths: the source's path of each parameter that is taken.
      resampled: lines on tables for another size.
      fresh: the model's parameters that are not taken.
      left: the source's that are not.
      facts: of the source's data, as a checkpoint has them.
    """

    source: str = ""
    arrays: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resampled: Sequence[str] = ()
    fresh: Sequence[str] = ()
    left: Sequence[str] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def lines(self, verb: str = "took") -> list[str]:
        """Lines for the log."""
        renamed = sorted({_part_pair(path, theirs) for path, theirs in self.paths.items() if path != theirs})
        names = f" ({', '.join(f'{theirs} as {ours}' for ours, theirs in renamed)})" if renamed else ""
        number = f"{len(self.paths)} of {len(self.paths) + len(self.fresh)} parameter arrays"
        lines = [f"{verb} {number} from {self.source}{names}", *self.resampled]
        if self.fresh:
            lines.append(f"not taken, and so fresh: {grouped(self.fresh)}")
        if self.left:
            lines.append(f"left there: {grouped(self.left)}")
        return lines

    def notes_on_data(self, metadata: DatasetMetadata) -> Iterator[str]:
        """Lines on what a part that is taken has learned otherwise than the run's data, of `metadata`, have it."""
        now = json.loads(json.dumps(metadata.to_json()))
        if self.facts.get("table") and now.get("table") and self.facts["table"] != now["table"]:
            yield "note: tables are standardised and numbered by this run's training data, which init_from's were not"
        names = self.facts.get("class_names")
        if names and now["class_names"] != names and any(path.startswith("head/") for path in self.paths):
            yield (
                f"note: the head of init_from tells {', '.join(names[:3])}, ... apart, and this run's data"
                f" {', '.join(now['class_names'][:3])}, ...; leave it out with init_paths for a fresh one"
            )

    def to_json(self) -> str:
        """All of it, by path."""
        fields = dict(source=self.source, taken=dict(self.paths), resampled=list(self.resampled))
        return json.dumps(fields | dict(fresh=list(self.fresh), left=list(self.left)), indent=2) + "\n"


def _part_pair(ours: str, theirs: str) -> tuple[str, str]:
    """What two paths begin with before what they have in common."""
    a, b = ours.split("/"), theirs.split("/")
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return "/".join(a), "/".join(b)


def grouped(paths: Iterable[str]) -> str:
    """Paths by what they begin with, and how many there are."""
    counts: dict[str, int] = {}
    for path in paths:
        part = path.split("/")[0]
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" if count > 1 else part for part, count in counts.items())


def read(params: Any, config: RunConfig) -> Taken:
    """Reads what `init_paths` names from `init_from`, straight to where it belongs.

    `init_from` is the workdir of a run, of whose latest checkpoint the moving average is taken where there is one; a
    file, folder or `hf-hub:NAME` in OpenCLIP's, Hugging Face's or big_vision's format; or a folder of transformers'
    with a ViViT, VideoMAE, AST, Whisper or BERT.

    Args:
      params: a tree of `jax.ShapeDtypeStruct`, to whose shardings the arrays are read.
      config: the run's config.

    Raises:
      UserError: no checkpoint there, a pattern that matches nothing, a parameter that is missing or of another shape,
        or a scale of the logits above `model.max_logit_scale`.
    """
    flat = _by_path(params, config)
    with contextlib.closing(init_source.open_source(config)) as source:
        choice = _choose(source, flat, config)
        by_source: dict[str, jax.ShapeDtypeStruct] = {}
        first_name = {theirs: name for name, theirs in reversed(choice.paths.items())}
        for name, theirs in choice.paths.items():
            leaf = flat[name]
            if name in choice.tables:  # read whole, and made anew below
                everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
                leaf = jax.ShapeDtypeStruct(source.shapes[theirs], leaf.dtype, sharding=everywhere)
            by_source.setdefault(theirs, leaf)
        arrays = source.read(by_source)
    result: dict[str, jax.Array] = {}
    for name, theirs in choice.paths.items():
        array = arrays[theirs]
        if name in choice.tables:
            array = init_towers.resample(array, *choice.tables[name])
        elif array is result.get(first_name[theirs]):
            array = jnp.copy(array)  # a step donates its state, in which no two parameters may be one array
        result[name] = jax.device_put(array, flat[name].sharding)
    _check_scale(config, result.get("logit_scale"))
    taken = choice.describe(source, flat, result)
    for line in taken.lines():
        log.info(line)
    return taken


def _check_scale(config: RunConfig, log_scale: jax.Array | None) -> None:
    """Checks the scale of the logits that the run begins with.

    Raises:
      UserError: the first update would cut it.
    """
    if log_scale is not None:
        remedy = " or leave the scale out of init_paths"
        validate_run.check_scale(config, log_scale, f"init_from={config.init_from!r}", remedy)
    elif isinstance(config.model, ContrastConfig):
        value = config.model.logit_scale_init
        validate_run.check_scale(config, math.log(value), f"model.logit_scale_init={value}")


def check(params: Any, config: RunConfig) -> Taken:
    """Checks that `read` would find what it takes; arguments and errors as there, but for values: none are read."""
    flat = _by_path(params, config)
    with contextlib.closing(init_source.open_source(config)) as source:
        return _choose(source, flat, config).describe(source, flat, {})


def _by_path(params: Any, config: RunConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters by path, of which every pattern in `init_paths` matches one."""
    leaves = ((partition.path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params))
    flat = {path: leaf for path, leaf in leaves if not is_adapter(path)}
    for pattern in param_roles.expand(config.init_paths, list(flat)):
        if not any(re.fullmatch(pattern, name) for name in flat):
            raise UserError(f"init_paths={pattern!r} matches no parameter path, such as {next(iter(flat))!r}")
    return flat


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What is read of a source.

    Attributes:
      paths: the source's path by ours.
      tables: tables of positions for another size, as they are there and here, by our path.
    """

    paths: dict[str, str]
    tables: dict[str, tuple[Table, Table]]

    def describe(self, source: Source, flat: Mapping[str, Any], arrays: Mapping[str, jax.Array]) -> Taken:
        used = set(self.paths.values())
        return Taken(
            source=source.description,
            arrays=arrays,
            paths=self.paths,
            resampled=[init_towers.describe_resampling(name, *tables) for name, tables in self.tables.items()],
            fresh=[name for name in flat if name not in self.paths],
            left=[*(name for name in source.shapes if name not in used), *source.unread],
            facts=source.facts,
        )


def _choose(source: Source, flat: Mapping[str, jax.ShapeDtypeStruct], config: RunConfig) -> _Choice:
    """What is read of a source, all of it checked.

    Raises:
      UserError: something does not fit.
    """
    ours = init_towers.towers(config.model)
    names = init_names.match(config.init_map, source.shapes, flat, source.towers, ours, source.heads)
    patterns = param_roles.expand(config.init_paths, list(flat))
    chosen = [name for name in flat if param_roles.matches(patterns, name)]
    missing = [name for name in chosen if name not in names]
    if config.init_paths == EVERYTHING:
        # What the source has nothing of stays fresh; a tower is taken as a whole.
        begun = {tower.prefix for name in names if (tower := init_towers.tower_of(name, ours)) is not None}
        missing = [name for name in missing if _prefix(name, ours) in begun]
    missing = [name for name in missing if not any(re.fullmatch(pattern, name) for pattern in source.lacks)]
    _check_functions(source, config, ours, {name: names[name] for name in chosen if name in names})
    if missing:
        raise UserError(_misfit(config, missing[0], "does not exist", flat[missing[0]].shape))
    paths, tables = {}, {}
    for name in chosen:
        if name not in names:
            continue
        theirs, leaf = names[name], flat[name]
        if (shape := source.shapes[theirs]) != leaf.shape:
            pair = _tables(name, theirs, ours, source.towers)
            if pair is None or shape != (pair[0].rows, leaf.shape[-1]) or leaf.shape != (pair[1].rows, shape[-1]):
                renamed = "" if name == theirs else f" (there {theirs})"
                raise UserError(_misfit(config, name + renamed, f"has shape {shape}", leaf.shape))
            if not init_towers.can_resample(*pair):
                continue  # a fixed table, whose further rows the model makes itself
            tables[name] = pair
        paths[name] = theirs
    if not paths:
        raise UserError(
            f"init_from={config.init_from!r} has nothing of this model: its parameters are {_some(source.shapes)}, the"
            f" model's {_some(flat)}; rename them with init_map"
        )
    return _Choice(paths, tables)


def _some(paths: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(path.split("/")[0] + "/..." * ("/" in path) for path in paths))


def _misfit(config: RunConfig, name: str, reason: str, shape: tuple[int, ...]) -> str:
    return (
        f"init_from={config.init_from!r}: {name} {reason} there and has shape {shape} here; change the model, rename"
        " with init_map, or leave it out with init_paths"
    )


def _prefix(name: str, towers: Sequence[Tower]) -> str | None:
    tower = init_towers.tower_of(name, towers)
    return None if tower is None else tower.prefix


def _tables(name: str, theirs: str, ours: Sequence[Tower], their_towers: Sequence[Tower]) -> tuple[Table, Table] | None:
    """The tables of positions that two parameters are, which one can be made of the other."""
    new, old = init_towers.tower_of(name, ours), init_towers.tower_of(theirs, their_towers)
    if new is None or old is None:
        return None
    before, after = init_towers.table_of(theirs, old), init_towers.table_of(name, new)
    return None if before is None or after is None else (before, after)


def _check_functions(source: Source, config: RunConfig, ours: Sequence[Tower], names: Mapping[str, str]) -> None:
    """Checks that the weights of towers and their heads would compute here what they computed there.

    Raises:
      UserError: a field that no shape shows differs.
    """
    different: dict[str, None] = {}
    data, heads = init_source.data_of(config), {tower.head: tower for tower in ours}
    their_heads = {tower.head: tower for tower in source.towers}
    for name, theirs in names.items():
        new, old = init_towers.tower_of(name, ours), init_towers.tower_of(theirs, source.towers)
        if new is not None and old is not None:
            different |= dict.fromkeys(init_towers.different_settings(old, new))
            for field in init_towers.DATA_FIELDS.get(new.kind, ()):
                if field == "data.tokenizer" and (new.prefix != "text" or _same_tokenizer(source, config)):
                    continue
                if field in source.data and source.data[field] != data[field]:
                    different[f"{field}: {source.data[field]} -> {data[field]}"] = None
        new, old = heads.get(name.split("/")[0]), their_heads.get(theirs.split("/")[0])
        if new is not None and old is not None and new.kind == old.kind:
            different |= dict.fromkeys(init_towers.different_head_settings(old, new))
    if different:
        raise UserError(
            f"init_from={config.init_from!r} was trained with another setting ({'; '.join(sorted(different))}), with"
            " which its weights compute something else; use its value, or leave the tower out with init_paths"
        )


def _same_tokenizer(source: Source, new: RunConfig) -> bool:
    """Whether two runs tokenize alike, whatever their files are called; weights may come without a tokenizer."""
    old, kind = source.data.get("data.tokenizer", run_config.NO_TOKENIZER), new.data.tokenizer.partition(":")[0]
    if old in (run_config.NO_TOKENIZER, new.data.tokenizer):
        return True
    if old.partition(":")[0] != kind:
        return False
    files = source.tokenizer_file(), init_source.file_of(new.data.tokenizer)
    return files[0] is not None and files[0] == files[1]


def replace(state: TrainState, taken: Mapping[str, jax.Array]) -> TrainState:
    """Puts arrays, by path, in the places of the parameters and of their moving average."""
    if not taken:
        return state
    params = partition.map_with_path(lambda path, x: taken.get(path, x), state.params)
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=average)
