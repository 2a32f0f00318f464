"""Training on packed texts: how many rows there are, which program a batch runs on, and how processes agree on it."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmjax import tasks
from mmjax.data.loading import packing
from mmjax.parallel import log, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.packing import TextPlaces

# Packing has to leave out a fifth of the tokens: it costs a second program, and attention a mask.
_PAYS = 0.8
# Batches whose votes are on their way: those of the loop's steps that run ahead of the device.
_AHEAD = 2
# Told once of at least so many batches, when more than this share did not fit.
_TOLD_AFTER, _MANY = 100, 0.05


def choose_packer(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, examples: Any, meta: Mapping[str, Any]
) -> packing.TextPacker | None:
    """What lays out a run's texts, or None where they are padded; says which, and why. All processes call it alike.

    Args:
      config: the run's config.
      mesh: its devices.
      examples: the training examples, of which a sample is read where the rows are not known yet.
      meta: of the checkpoint that the run goes on from, whose rows are kept where they fit; {} at the start.
    """
    wanted = config.data.pack_texts
    if wanted == "off" or (wanted == "auto" and _platform(mesh) == "cpu") or not tasks.has_text(config):
        return None
    obstacle = tasks.packing_obstacle(config)
    if obstacle:
        log.info(f"texts are padded: {obstacle}")
        return None
    context = tasks.text_length(config)
    packer = packing.TextPacker(
        rows=config.data.packed_rows,
        length=packing.row_length(context),
        captions=config.batch_size // mesh_lib.batch_devices(mesh) // config.microbatch,
        pieces=config.microbatch,
        eos_id=config.model.text.eos_id,
    )
    origin = "data.packed_rows"
    if not packer.rows:
        packer, origin = _with_rows(packer, examples, meta)
    if not packer.rows:
        log.info("texts are padded: none of the first training examples could be read to learn how long texts are")
        return None
    packs = wanted == "on" or packer.share(context) <= _PAYS
    where = "device" if packer.pieces == 1 else "device and microbatch"
    log.info(
        f"texts are {'packed' if packs else 'padded'}: {packer.rows} rows of {packer.length} tokens hold the"
        f" {packer.captions} texts of a {where}, {packer.share(context):.0%} of the tokens of padded ones ({origin})"
    )
    return packer if packs else None


def _platform(mesh: jax.sharding.Mesh) -> str:
    return mesh.devices.flat[0].platform


def _with_rows(packer: packing.TextPacker, examples: Any, meta: Mapping[str, Any]) -> tuple[packing.TextPacker, str]:
    """The packer with its number of rows (0 where no text can be read), and where it is from."""
    stored = meta.get("text_packing") or {}
    if stored == dataclasses.asdict(packer) | {"rows": stored.get("rows")} and meta.get("data") == examples.describe():
        return dataclasses.replace(packer, rows=stored["rows"]), "as before"

    def sample() -> tuple[int, float, int]:
        lengths = packing.sample_lengths(examples, packer.eos_id, packer.captions)
        if not len(lengths):
            return 0, 0.0, 0
        return packing.rows_for(lengths, packer.captions, packer.length), float(lengths.mean()), len(lengths)

    rows, mean, count = process_agreement.run_on_process_0(sample)
    before = f"; before, {stored['rows']} rows for {stored['captions']} texts" if stored else ""
    return dataclasses.replace(packer, rows=rows), f"{count} texts have {mean:.1f} tokens on average{before}"


class PackedBatches:
    """Batches with `text_places`, but for those whose texts do not fit into their rows in one of the processes.

    Which they are all processes know some batches ahead: each votes when it has a batch, and the vote is read when the
    batch is due.

    Args:
      batches: with `text_row` and `text_column`, as `packer` adds them; where there are several processes they come
        even where they cannot, see `ErrorDeferringBatches`.
      packer: what laid them out.
      votes: of all processes; None for one.
      count: how many will be asked for.

    Attributes:
      error: what kept the batch that was given last from being read.
    """

    def __init__(
        self, batches: Any, packer: packing.TextPacker, votes: process_agreement.AsyncAllReduce | None, count: int
    ):
        self._batches, self._packer, self._votes = batches, packer, votes
        self._left = count
        self._ahead: collections.deque = collections.deque()  # (batch, vote, error)
        self._given, self._padded, self._told = 0, 0, False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        while self._left and len(self._ahead) <= (_AHEAD if self._votes else 0):
            batch = next(self._batches)
            vote = [int(batch["text_row"][0] < 0)]
            vote = self._votes.sum(vote) if self._votes else vote
            self._ahead.append((batch, vote, getattr(self._batches, "error", None)))
            self._left -= 1
        if not self._ahead:
            raise StopIteration
        batch, vote, self.error = self._ahead.popleft()
        row, column = batch.pop("text_row"), batch.pop("text_column")
        self._given += 1
        if np.asarray(vote)[0]:
            self._count_padded()
            return batch
        return batch | {"text_places": TextPlaces(row, column, self._packer.rows, self._packer.length)}

    def _count_padded(self) -> None:
        self._padded += 1
        if not self._told and self._given >= _TOLD_AFTER and self._padded > _MANY * self._given:
            self._told = True
            log.info(
                f"warning: the texts of {self._padded} of {self._given} batches did not fit into {self._packer.rows}"
                " rows and were padded, which is slower and the same otherwise; more fit with a larger"
                " data.packed_rows"
            )

    def __enter__(self) -> "PackedBatches":
        self._batches.__enter__()
        return self

    def __exit__(self, *exc_info) -> None:
        self._batches.__exit__(*exc_info)


class PackedStep:
    """A train step as two programs, for packed and for padded texts, both compiled before the first step.

    Args:
      step: the jitted step.
      packer: what lays the texts out.
    """

    def __init__(self, step: Any, packer: packing.TextPacker):
        self._step, self._packer = step, packer
        self._programs: dict[bool, Callable[..., Any]] = {}  # by whether texts are packed

    def __call__(self, state: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Also tells in the metrics whether the texts were packed: 1 or 0."""
        if not self._programs:
            self._compile(state, batch)
        packed = "text_places" in batch
        state, metrics = self._programs[packed](state, batch)
        return state, metrics | {"texts_packed": np.float32(packed)}

    def _compile(self, state: Any, batch: dict[str, Any]) -> None:
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        plain = {name: x for name, x in batch.items() if name != "text_places"}
        state, plain = jax.tree.map(shape, (state, plain))
        place = jax.ShapeDtypeStruct(plain["text"].shape[:1], jnp.int32, sharding=plain["text"].sharding)
        places = TextPlaces(place, place, self._packer.rows, self._packer.length)
        batches = {True: plain | {"text_places": places}, False: plain}
        lowered = {packed: self._step.lower(state, shapes) for packed, shapes in batches.items()}
        # A GPU's compiler measures kernels on the device, which a second one would disturb.
        compilers = 1 if next(iter(plain["text"].sharding.device_set)).platform == "gpu" else len(lowered)
        with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
            compiled = pool.map(lambda each: each.compile(), lowered.values())
            self._programs = dict(zip(lowered, compiled, strict=True))
