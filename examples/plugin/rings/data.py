"""A source and a tokenizer."""

import numpy as np

from mmjax.plugin import BadExample, Record, Tokenizer, check_index, sources, stable_id, tokenizers

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "white": (240, 240, 240)}
SIZES = {"small": 4, "large": 9}
CLASSES = [f"{size} {colour}" for size in SIZES for colour in COLOURS]
PIXELS = 32


@sources.register("rings", "[/SPLIT]")
class Rings:
    """Images of one ring each, drawn from the number of the example: `rings/train`, `rings/test`."""

    splits = ("train", "test")

    def __init__(self, split: str = "train"):
        self.name = f"rings/{split}"
        self.class_names = list(CLASSES)
        self.templates = ["a {c} ring"]
        self._seed = self.splits.index(split)

    def __len__(self) -> int:
        return (2000, 200)[self._seed]

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        rng = np.random.default_rng([self._seed, index])
        label = int(rng.integers(len(CLASSES)))
        if self._seed == 0 and index % 997 == 996:
            raise BadExample("corrupt")  # is counted, and another example takes its place
        size, colour = CLASSES[label].split()
        x, y = rng.uniform(10, PIXELS - 10, 2)
        distance = np.hypot(*np.ogrid[-x : PIXELS - x, -y : PIXELS - y])
        image = rng.integers(0, 60, (PIXELS, PIXELS, 3)).astype(np.uint8)
        image[np.abs(distance - SIZES[size]) < 1.5] = COLOURS[colour]
        captions = [f"a {size} {colour} ring", f"one {size} ring in {colour}"]
        return Record(id=stable_id("rings", label), image=image, captions=captions, label=label)


@tokenizers.register("letters")
def make_letters(spec: str, context_length: int) -> Tokenizer:
    """Lower-case letters and spaces: ids 3 to 29."""
    alphabet = " abcdefghijklmnopqrstuvwxyz"

    def encode(texts: list[str]) -> list[list[int]]:
        rows = [[3 + alphabet.index(letter) for letter in text.lower() if letter in alphabet] for text in texts]
        return [[1, *row][: context_length - 1] + [2] for row in rows]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=3 + len(alphabet),
        bos_id=1,
        eos_id=2,
        pad_id=0,
        special_ids=(0, 1, 2),
        cleaning="lower case, letters and spaces alone",
        encode=encode,
        decode_words=lambda ids: "".join(alphabet[i - 3] for i in ids),
    )
