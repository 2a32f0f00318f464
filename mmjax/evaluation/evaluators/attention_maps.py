"""Attention and similarity maps of a few images, as a report shows them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int32

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation import heatmaps
from mmjax.evaluation.canvases import Canvas, ImageCanvas, make_canvas
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.example_selection import AttentionPanels, Panel, stratified_sample
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks.token_grids import TokenGrid, input_grid, output_grid

NUM_IMAGES = 6
_MAX_WORDS = 20  # of a strip, the first ones
_SIDE, _WORD_SIDE = 160, 88  # longest side, pixels


class _Query(NamedTuple):
    """An image (or what is seen in its place) with texts to compare it with, and the text whose words attend to it.

    Attributes:
      seen: as the model is given it, not normalised.
      text: its own; may be empty.
      other_text: another image's, or None where all have the same.
      ids: of the words, with the prompt in front where they were generated.
      prompt: how many of them are the prompt.
    """

    seen: np.ndarray
    text: str
    other_text: str | None
    ids: Int32[np.ndarray, " T"]
    prompt: int


class AttentionMapRenderer:
    """Computes and draws the attention maps of a few images of a source.

    Args:
      task: gives `attention_maps`.
      mesh: the device mesh.
      tokenizer: of the texts.
      patch_size: of the image tower, pixels of a side; 0 where something else than an image is seen.
    """

    def __init__(self, task: Any, mesh: Mesh, tokenizer: Tokenizer, patch_size: int):
        self.tokenizer, self.patch_size = tokenizer, patch_size
        self.name: str = "image" if patch_size else task.seen
        self.encoder: Any = None if patch_size else getattr(task.config.model, task.seen)
        # One image a device: attention of all layers and heads is large.
        self.runner = BatchRunner(mesh, mesh_lib.batch_devices(mesh))
        self.attention_maps = self.runner.compile(task.attention_maps)

    def __call__(
        self, params: Any, examples: Any, generated_text: Callable[[int, Any], tuple[np.ndarray, int]] | None
    ) -> list[AttentionPanels]:
        """The panels of images from all over a source; every process takes part.

        Args:
          params: parameters.
          examples: the source's.
          generated_text: what the model generated, from an example's index and the example: ids with the prompt in
            front, and the length of that. None where it generates nothing.
        """
        indices = stratified_sample(len(examples), NUM_IMAGES, seed=0).tolist()
        numbered = zip(indices, examples.read(indices), strict=True)
        shown = [(index, example) for index, example in numbered if example.seen is not None]
        if not shown:
            return []
        texts, ids = [_text(example) for _, example in shown], [example.id for _, example in shown]
        queries = []
        for i, (index, example) in enumerate(shown):
            words, prompt = generated_text(index, example) if generated_text else (self._text_ids(texts[i]), 0)
            queries.append(_Query(example.seen, texts[i], _other_text(i, texts, ids), words, prompt))
        maps = self.runner.run(self.attention_maps, params, map(self._row, queries))
        panels = [self._draw(query, {name: x[i] for name, x in maps.items()}) for i, query in enumerate(queries)]
        return [panel for panel in panels if len(panel.maps) > 1 or panel.words]  # an image alone shows nothing

    def _text_ids(self, text: str) -> Int32[np.ndarray, " T"]:
        tokens, mask = self.tokenizer([text])
        return tokens[0][mask[0]]

    def _row(self, query: _Query) -> tuple[np.ndarray, ...]:
        tokens, mask = self.tokenizer([query.text, query.other_text or ""])
        length = self.tokenizer.context_length
        padded = np.full(length, self.tokenizer.pad_id, np.int32)
        padded[: len(query.ids)] = query.ids[:length]
        return query.seen, tokens, mask, padded, np.arange(length) < len(query.ids)

    def _draw(self, query: _Query, maps: dict[str, np.ndarray]) -> AttentionPanels:
        """The panels of one image; `maps` are `task.attention_maps`'s results for it."""
        canvas, grid, of_tokens = self._canvas(query.seen)
        with_similarity = "patches" in maps and query.text
        panels = [Panel(canvas.draw(_SIDE), self.name, "" if with_similarity else query.text)]
        if "last" in maps:
            titles = {"attention, last layer": maps["last"], "attention rollout": _rollout(maps)}
            for title, values in titles.items():  # each on its own scale
                panels += _draw_maps(canvas, grid, [(title, _attention_detail(grid, values), values)])
        if with_similarity:
            panels += _draw_maps(canvas, of_tokens, _similarities(query, maps["patches"], maps["whole"]))
        words, title = [], ""
        if "words" in maps:
            title = "Where each word looked when it was written" if query.prompt else "Where each word looks"
            side = _WORD_SIDE if isinstance(canvas, ImageCanvas) else _SIDE
            words = _draw_maps(canvas, of_tokens, self._word_maps(query, maps["words"])[:_MAX_WORDS], side)
        return AttentionPanels(panels, words, title)

    def _canvas(self, seen: np.ndarray) -> tuple[Canvas, TokenGrid, TokenGrid]:
        """What the maps are drawn over, the places of the encoder's tokens, and of those that it gives."""
        grid, of_tokens = input_grid(self.encoder), output_grid(self.encoder)
        if grid is not None and of_tokens is not None:
            return make_canvas(seen, self.encoder), grid, of_tokens
        patch = self.patch_size
        grid = TokenGrid(1, seen.shape[0] // patch, seen.shape[1] // patch)
        image = seen[: grid.rows * patch, : grid.columns * patch]  # the model sees no pixels beyond the last patch
        return ImageCanvas(image), grid, grid

    def _word_maps(self, query: _Query, attention: Float[np.ndarray, "L N"]) -> list[tuple[str, str, np.ndarray]]:
        """Words after the prompt, each with no detail and the mean attention [N] of its tokens."""
        maps = []
        for word, positions in word_token_positions(self.tokenizer, query.ids.tolist()):
            positions = [position for position in positions if position >= query.prompt]
            if positions and max(positions) < len(attention):
                maps.append((word, "", attention[positions].mean(axis=0)))
        return maps


class ModalityAttentionRenderer:
    """Computes and draws where a classifier of several modalities looks in a few examples of a source.

    Args:
      task: gives `shown_modalities` and `modality_attention`.
      mesh: the device mesh.
    """

    def __init__(self, task: Any, mesh: Mesh):
        self.names, self.shown = task.example_transform.names, task.shown_modalities
        self.specs, self.encoders = task.input_specs, task.config.model.encoders
        self.runner = BatchRunner(mesh, mesh_lib.batch_devices(mesh))
        look = lambda params, *columns: task.modality_attention(
            params, dict(zip(self.names, columns[:-1], strict=True)), columns[-1]
        )
        self.look = self.runner.compile(look)

    def __call__(self, params: Any, examples: Any, generated_text: Any = None) -> list[AttentionPanels]:
        """The panels of examples from all over a source; every process takes part."""
        del generated_text
        indices = stratified_sample(len(examples), NUM_IMAGES, seed=0).tolist()
        shown = [example for example in examples.read(indices) if example.inputs]
        if not shown:
            return []
        maps = self.runner.run(self.look, params, map(self._row, shown))
        classes = examples.source.class_names
        panels = []
        for i, example in enumerate(shown):
            label = "" if example.label is None or not classes else classes[example.label]
            panels.append(AttentionPanels(self._draw(example, label, maps, i), []))
        return panels

    def _row(self, example: Any) -> tuple[np.ndarray, ...]:
        arrays = self.specs.blank() | dict(example.inputs)
        return *(arrays[name] for name in self.names), np.array([name in example.inputs for name in self.names], bool)

    def _draw(self, example: Any, label: str, maps: dict[str, dict[str, np.ndarray]], index: int) -> list[Panel]:
        """The panels of one example: of each modality itself and its maps, each on its own scale."""
        panels: list[Panel] = []
        for name in (name for name in self.shown if name in example.inputs):
            grid, canvas = input_grid(self.encoders[name]), make_canvas(example.inputs[name], self.encoders[name])
            if grid is None:
                continue
            panels.append(Panel(canvas.draw(_SIDE), name, label))
            for title, key in (("attention, last layer", "last"), ("attention rollout", "rollout")):
                values = maps[name][key][index]
                panels += _draw_maps(canvas, grid, [(title, _attention_detail(grid, values), values)])
        return panels


def word_token_positions(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Words, as white space separates them, each with the positions of its tokens.

    Args:
      tokenizer: that decodes.
      ids: of one text; what comes after the end of text belongs to no word.
    """
    words = tokenizer.decode(ids).split()
    positions: list[list[int]] = [[] for _ in words]
    for i, token in enumerate(ids):
        if token == tokenizer.eos_id and i:
            break
        if token in tokenizer.special_ids:
            continue
        # A token that begins no word goes with the one before it.
        count = len(tokenizer.decode(ids[: i + 1]).split())
        if 0 < count <= len(words):
            positions[count - 1].append(i)
    return list(zip(words, positions, strict=True))


def _text(example: Any) -> str:
    return example.captions[0] if example.captions else example.extras.get("question", "")


def _other_text(index: int, texts: list[str], ids: list[int]) -> str | None:
    """The text of the next image that has another one; None where there is none."""
    for i in [*range(index + 1, len(texts)), *range(index)]:
        if texts[i] and texts[i] != texts[index] and ids[i] != ids[index]:
            return texts[i]
    return None


def _draw_maps(
    canvas: Canvas,
    grid: TokenGrid,
    maps: Sequence[tuple[str, str, Float[np.ndarray, " N"]]],
    longest: int = _SIDE,
) -> list[Panel]:
    """Maps over a canvas on one scale, each with its title and detail."""
    if not maps:
        return []
    low, high = _patch_range(grid, [values for _, _, values in maps])
    overlay = lambda values: canvas.overlay(grid.cells(values), low, high, longest)
    return [Panel(overlay(values), title, detail) for title, detail, values in maps]


def _rollout(maps: dict[str, np.ndarray]) -> Float[np.ndarray, " N"]:
    """What the embedding is made of: computed with the maps, or of all layers of an image tower."""
    if "rollout" in maps:
        return maps["rollout"]
    return maps["reading"] @ heatmaps.rollout(maps["layers"][:, None, None])[0]


def _attention_detail(grid: TokenGrid, values: Float[np.ndarray, " N"]) -> str:
    low, high = _patch_range(grid, [values])
    return f"{100 * low:.1f} to {100 * high:.1f} % a patch"


def _patch_range(grid: TokenGrid, maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and the largest value of any patch."""
    patches = np.stack([grid.cells(values) for values in maps])
    return float(patches.min()), float(patches.max())


def _similarities(
    query: _Query, patches: Float[np.ndarray, "2 N"], cosines: Float[np.ndarray, " 2"]
) -> list[tuple[str, str, np.ndarray]]:
    """The similarity of patches with both texts; `cosines` are the whole image's."""
    titles, texts = ("own text", "another image's text"), (query.text, query.other_text)
    return [
        (title, f"cosine {round(cosine, 2) + 0.0:.2f}: {text}", values)
        for title, text, values, cosine in zip(titles, texts, patches, cosines.tolist(), strict=True)
        if text is not None
    ]
