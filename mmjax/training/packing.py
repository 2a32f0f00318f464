"""Training on packed or grouped texts: of which size, which program a batch runs on, and how processes agree on it."""

import collections
import concurrent.futures
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax import tasks
from mmjax.config.schema import RunConfig
from mmjax.data.loading import packing
from mmjax.errors import GlobalUserError, UserError
from mmjax.parallel import log, process_agreement
from mmjax.training.step_agreement import AsyncAllReduce

# A fifth of the cost has to be left out, as it takes a second program.
_PAYS = 0.8
# Batches whose votes are on their way: those of the loop's steps that run ahead of the device.
_AHEAD = 2
# A warning comes once, after so many batches, when more than this share of them did not fit.
_WARN_AFTER, _MANY = 100, 0.05
_AS_BEFORE = "as before"


def choose_packer(
    config: RunConfig, mesh: jax.sharding.Mesh, examples: Any, meta: Mapping[str, Any]
) -> tasks.Packer | None:
    """What lays out a run's texts, or None where they are padded; says which, and why. All processes call it alike.

    With `data.pack_texts='auto'` a run goes on as it began, whatever would be chosen for a new one.

    Args:
      config: the run's config.
      mesh: its devices.
      examples: the training examples, of which a sample is read where the size is not known yet.
      meta: of the checkpoint that the run goes on from, whose size is kept where it fits; {} at the start.

    Raises:
      GlobalUserError: `data.length_groups` has other rows than a device has texts.
    """
    wanted, stored = config.data.pack_texts, meta.get("text_packing")
    if wanted == "off" or not tasks.has_text(config):
        return None
    if wanted == "auto" and not stored and _platform(mesh) == "cpu":
        unread = _unread_size(config)
        if unread:
            log.info(f"texts are padded on CPUs{unread}")
        return None
    obstacle = tasks.packing_obstacle(config)
    if obstacle:
        log.info(f"texts are padded: {obstacle}")
        return None
    if wanted == "auto" and meta and not stored:  # other programs would give other bits
        log.info(f"texts are padded, as before{_unread_size(config)}")
        return None
    try:
        packer = tasks.make_packer(config, mesh)
    except UserError as error:  # the same in all processes
        raise GlobalUserError(str(error)) from error
    context, origin = tasks.text_length(config), packer.config_field
    if not size_of(packer):
        packer, origin = _with_size(packer, examples, meta)
    if not size_of(packer):
        log.info("texts are padded: none of the first training examples could be read to learn how long texts are")
        return None
    packs = wanted == "on" or origin == _AS_BEFORE or packer.relative_cost(context) <= _PAYS
    where = "device" if packer.pieces == 1 else "device and microbatch"
    log.info(
        f"texts are {packer.participle if packs else 'padded'}: {packer.describe()} hold the {packer.captions} texts of"
        f" a {where}, {packer.share(context):.0%} of the tokens of padded ones ({origin})"
    )
    return packer if packs else None


def _platform(mesh: jax.sharding.Mesh) -> str:
    return mesh.devices.flat[0].platform


def _unread_size(config: RunConfig) -> str:
    """The end of a line on padded texts: a size that the config gives for others, and what reads it; '' without one."""
    data = config.data
    fields = {"packed_rows": data.packed_rows, "length_groups": data.length_groups}
    sizes = [f"data.{name}={value!r}" for name, value in fields.items() if value]
    return f"; data.pack_texts='on' reads {' and '.join(sizes)}" if sizes else ""


def size_of(packer: tasks.Packer) -> Any:
    """The rows or groups of a packer: 0 or () where they are not known yet."""
    return getattr(packer, packer.size_field)


def to_meta(packer: tasks.Packer | None) -> dict[str, Any] | None:
    """What a checkpoint's meta.json holds of a packer."""
    return None if packer is None else json.loads(json.dumps(dataclasses.asdict(packer)))


def _with_size(packer: tasks.Packer, examples: Any, meta: Mapping[str, Any]) -> tuple[tasks.Packer, str]:
    """The packer with its rows or groups (none where no text can be read), and where they are from."""
    stored, field = meta.get("text_packing") or {}, packer.size_field
    # Groups come back from JSON as lists.
    resized = lambda size: dataclasses.replace(
        packer, **{field: tuple(map(tuple, size)) if field == "groups" else size}
    )
    before = ""
    if stored.get(field):
        kept = resized(stored[field])
        if stored == to_meta(kept) and meta.get("data") == examples.describe():
            return kept, _AS_BEFORE
        before = f"; before, {kept.describe()} for {stored['captions']} texts"

    def sample() -> tuple[Any, float, int]:
        lengths = packing.sample_lengths(examples, packer)
        if not len(lengths):
            return size_of(packer), 0.0, 0
        return size_of(packer.sized(lengths)), float(lengths.mean()), len(lengths)

    size, mean, count = process_agreement.run_on_process_0(sample)
    return resized(size), f"{count} texts have {mean:.1f} tokens on average{before}"


class TextLayoutBatches:
    """Batches with the layout of their texts, but for those whose texts do not fit into it in one of the processes.

    Which they are all processes know some batches ahead: each votes when it has a batch, and the vote is read when the
    batch is due.

    Args:
      batches: with the arrays that `packer` adds; where there are several processes they come even where they cannot,
        see `ErrorDeferringBatches`.
      packer: what laid them out.
      votes: of all processes; None for one.
      count: how many will be asked for.

    Attributes:
      error: what kept the batch that was given last from being read.
    """

    def __init__(self, batches: Any, packer: tasks.Packer, votes: AsyncAllReduce | None, count: int):
        self._batches, self._packer, self._votes = batches, packer, votes
        self._left = count
        self._ahead: collections.deque = collections.deque()  # (batch, vote, error)
        self._batches_given, self._padded, self._warned = 0, 0, False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        while self._left and len(self._ahead) <= (_AHEAD if self._votes else 0):
            batch = next(self._batches)
            vote = [int(batch[self._packer.columns[0]][0] < 0)]
            vote = self._votes.sum(vote) if self._votes else vote
            self._ahead.append((batch, vote, getattr(self._batches, "error", None)))
            self._left -= 1
        if not self._ahead:
            raise StopIteration
        batch, vote, self.error = self._ahead.popleft()
        columns = [batch.pop(name) for name in self._packer.columns]
        self._batches_given += 1
        if np.asarray(vote)[0]:
            self._count_padded()
            return batch
        return batch | tasks.lay_out(self._packer, columns)

    def _count_padded(self) -> None:
        self._padded += 1
        if not self._warned and self._batches_given >= _WARN_AFTER and self._padded > _MANY * self._batches_given:
            self._warned = True
            log.info(
                f"warning: the texts of {self._padded} of {self._batches_given} batches did not fit into"
                f" {self._packer.describe()} and were padded, which is slower and the same otherwise; more fit"
                f" {self._packer.remedy}"
            )

    def __enter__(self) -> "TextLayoutBatches":
        self._batches.__enter__()
        return self

    def __exit__(self, *exc_info) -> None:
        self._batches.__exit__(*exc_info)


class TextLayoutStep:
    """A train step as two programs, for texts laid out and padded ones, both compiled before the first step.

    Args:
      step: the jitted step.
      packer: what lays the texts out.
    """

    def __init__(self, step: Any, packer: tasks.Packer):
        self._step, self._packer = step, packer
        self._programs: dict[bool, Callable[..., Any]] = {}  # by whether texts are laid out

    def __call__(self, state: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Also tells in the metrics, as `texts_packed` or `texts_grouped`, whether the texts were: 1 or 0."""
        if not self._programs:
            self._compile(state, batch)
        is_laid_out = any(name in batch for name in tasks.LAYOUTS)
        state, metrics = self._programs[is_laid_out](state, batch)
        return state, metrics | {f"texts_{self._packer.participle}": np.float32(is_laid_out)}

    def _compile(self, state: Any, batch: dict[str, Any]) -> None:
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        plain = {name: x for name, x in batch.items() if name not in tasks.LAYOUTS}
        state, plain = jax.tree.map(shape, (state, plain))
        batches = {True: plain | tasks.layout_shapes(self._packer, plain["text"]), False: plain}
        lowered = {is_laid_out: self._step.lower(state, shapes) for is_laid_out, shapes in batches.items()}
        # A GPU's compiler measures kernels on the device, which a second one would disturb.
        compilers = 1 if next(iter(plain["text"].sharding.device_set)).platform == "gpu" else len(lowered)
        with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
            compiled = pool.map(lambda program: program.compile(), lowered.values())
            self._programs = dict(zip(lowered, compiled, strict=True))
