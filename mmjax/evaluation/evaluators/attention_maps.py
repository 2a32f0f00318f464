"""What a report shows of a model's inside: a few images with where attention went and which patches are like a text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation import heatmaps
from mmjax.evaluation.embedding.batched_apply import Feeder
from mmjax.evaluation.example_selection import Inside, Look, spread
from mmjax.parallel import mesh as mesh_lib

IMAGES = 6
_WORDS = 20  # of a strip, the first ones
_SIDE, _WORD_SIDE = 160, 88  # longest side, pixels


class InsideView:
    """Looks inside a model at a few images of a source.

    Args:
      task: gives `attention_maps` and `available_attention_maps`, the names of what it shows.
      mesh: the device mesh.
      tokenizer: of the texts.
    """

    def __init__(self, task: Any, mesh: Any, tokenizer: Tokenizer):
        self.task, self.tokenizer = task, tokenizer
        # One image a device: attention of all layers and heads is large.
        self.feeder = Feeder(mesh, mesh_lib.batch_devices(mesh))
        self.look = self.feeder.compiled(task.attention_maps)

    def __call__(
        self, params: Any, examples: Any, written: Callable[[int, Any], tuple[np.ndarray, int]] | None
    ) -> list[Inside]:
        """Shows images from all over a source; every process takes part.

        Args:
          params: parameters.
          examples: the source's.
          written: what the model wrote, given an example's place and the example: ids with the prompt in front, and the
            length of that. None where it writes nothing.
        """
        places = spread(len(examples), IMAGES, seed=0).tolist()
        read = zip(places, examples.read(places), strict=True)
        shown = [(place, example) for place, example in read if example.image is not None]
        if not shown:
            return []
        own = [_text(example) for _, example in shown]
        other = [_other(at, own, [example.id for _, example in shown]) for at in range(len(own))]
        rows, words = [], []
        for (place, example), text, wrong in zip(shown, own, other, strict=True):
            tokens, mask = self.tokenizer([text, wrong or ""])
            ids, prompt = (tokens[0][mask[0]], 0) if written is None else written(place, example)
            words.append((ids, prompt))
            rows.append((example.image, tokens, mask, *self._padded(ids)))
        found = self.feeder.run(self.look, params, rows)
        images = [
            self._show(example.image, text, wrong, ids, prompt, {name: x[at] for name, x in found.items()})
            for at, ((_, example), text, wrong, (ids, prompt)) in enumerate(zip(shown, own, other, words, strict=True))
        ]
        return [each for each in images if len(each.maps) > 1 or each.words]  # an image alone shows nothing

    def _padded(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = self.tokenizer.context_length
        row = np.full(length, self.tokenizer.pad_id, np.int32)
        row[: len(ids)] = ids[:length]
        return row, np.arange(length) < len(ids)

    def _show(
        self,
        image: np.ndarray,
        own: str,
        wrong: str | None,
        ids: np.ndarray,
        prompt: int,
        found: dict[str, np.ndarray],
    ) -> Inside:
        patch = self.task.config.model.image.patch_size
        grid = (image.shape[0] // patch, image.shape[1] // patch)
        seen = image[: grid[0] * patch, : grid[1] * patch]  # pixels beyond the last whole patch are not looked at
        compared = "patches" in found and own
        maps = [Look(heatmaps.fitted(seen, _SIDE), "image", "" if compared else own)]
        if "layers" in found:
            flow = heatmaps.rollout(found["layers"][:, None, None])[0]
            maps += _attention(seen, grid, found["last"], "attention, last layer")
            maps += _attention(seen, grid, found["reading"] @ flow, "attention rollout")
        if compared:
            texts = [("own text", own), ("another image's text", wrong)]
            values = zip(texts, found["patches"], found["whole"].tolist(), strict=True)
            texts = [(*text, patches, whole) for text, patches, whole in values]
            maps += _similarities(seen, grid, [each for each in texts if each[1] is not None])
        words, title = [], ""
        if "words" in found:
            title = "Where each word looked when it was written" if prompt else "Where each word looks"
            pieces = [(word, [at for at in places if at >= prompt]) for word, places in self._pieces(ids)]
            pieces = [(word, places) for word, places in pieces if places and max(places) < len(found["words"])]
            heats = [found["words"][places].mean(axis=0) for _, places in pieces]
            words = _strip(seen, grid, [word for word, _ in pieces], heats)
        return Inside(maps, words, title)

    def _pieces(self, ids: np.ndarray) -> list[tuple[str, list[int]]]:
        """Words of a text and the places of their tokens."""
        return word_places(self.tokenizer, ids.tolist())


def word_places(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Words, as white space separates them, each with the places of the tokens that it is made of.

    Args:
      tokenizer: that decodes.
      ids: of one text; what comes after the end of text belongs to no word.
    """
    words = tokenizer.decode(ids).split()
    places: list[list[int]] = [[] for _ in words]
    for at, token in enumerate(ids):
        if token == tokenizer.eos_id and at:
            break
        if token in tokenizer.special_ids:
            continue
        # A token that begins no word goes with the one before it.
        count = len(tokenizer.decode(ids[: at + 1]).split())
        if 0 < count <= len(words):
            places[count - 1].append(at)
    return list(zip(words, places, strict=True))


def _text(example: Any) -> str:
    return example.captions[0] if example.captions else example.extras.get("question", "")


def _other(at: int, texts: list[str], ids: list[int]) -> str | None:
    """The text of the next image that has another one; None where there is none."""
    for step in range(1, len(texts)):
        place = (at + step) % len(texts)
        if texts[place] and texts[place] != texts[at] and ids[place] != ids[at]:
            return texts[place]
    return None


def _attention(image: np.ndarray, grid: tuple[int, int], values: np.ndarray, title: str) -> list[Look]:
    patches = values[len(values) - grid[0] * grid[1] :]
    low, high = float(patches.min()), float(patches.max())
    return [_over(image, grid, values, low, high, title, f"{100 * low:.1f} to {100 * high:.1f} % a patch", _SIDE)]


def _similarities(
    image: np.ndarray, grid: tuple[int, int], texts: list[tuple[str, str, np.ndarray, float]]
) -> list[Look]:
    """Maps of (title, text, values, value of the whole image), on one scale, so that they can be compared."""
    count = grid[0] * grid[1]
    patches = np.stack([values[len(values) - count :] for _, _, values, _ in texts])
    low, high = float(patches.min()), float(patches.max())
    return [
        _over(image, grid, values, low, high, title, f"cosine {round(whole, 2) + 0.0:.2f}: {text}", _SIDE)
        for title, text, values, whole in texts
    ]


def _strip(image: np.ndarray, grid: tuple[int, int], words: list[str], heats: list[np.ndarray]) -> list[Look]:
    """A map for each word, on one scale."""
    if not words:
        return []
    count = grid[0] * grid[1]
    words, heats = words[:_WORDS], heats[:_WORDS]
    patches = np.stack([heat[len(heat) - count :] for heat in heats])
    low, high = float(patches.min()), float(patches.max())
    return [_over(image, grid, heat, low, high, word, "", _WORD_SIDE) for word, heat in zip(words, heats, strict=True)]


def _over(
    image: np.ndarray,
    grid: tuple[int, int],
    values: np.ndarray,
    low: float,
    high: float,
    title: str,
    detail: str,
    longest: int,
) -> Look:
    picture = heatmaps.fitted(image, longest)
    heat = heatmaps.patch_map(values, grid, picture.shape[:2])
    return Look(heatmaps.overlay(picture, heat, low, high), title, detail)
