"""Handwritten digits with captions: scikit-learn's copy of the test set of UCI's Optical Recognition of Digits."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.record import Record, check_index, stable_id
from mmjax.errors import UserError, validate_choice

CLASS_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TRAIN_TEMPLATES = [
    "a photo of the digit {c}",
    "the handwritten number {c}",
    "a scan of the digit {c}",
    "a grey image of the number {c}",
    "someone wrote the digit {c}",
    "{c}",
    "the numeral {c} written by hand",
    "a small blurry picture of a {c}",
]
EVAL_TEMPLATES = [
    "a photo of the number {c}",
    "the digit {c}",
    "a picture of the handwritten digit {c}",
    "a handwritten {c}",
    "this is the number {c}",
]
TEST_EVERY = 5


class Digits:
    """Handwritten digits as image-text pairs.

    Zero-shot accuracy on the test split is *closed-set*: the ten classes are those of the training split; only the
    images and the prompt templates are new.

    The split is fixed and stratified: within each class, in the data set's order, images 4, 9, 14, ... are the test
    split (355 images) and the others the training split (1,442).

    Records have `label`, the class as `id` (all images of a class are positives of one another), and every template of
    their split as captions: eight for training, of which one is drawn per visit, and five others for testing.

    Args:
      split: "train" or "test".
      size: pixels of the image's side; the 8 x 8 originals are scaled up bicubically.

    Raises:
      UserError: on an unknown split or a size below 8.
    """

    splits = ("train", "test")

    def __init__(self, split: str = "train", size: int = 32):
        from sklearn.datasets import load_digits  # takes a second to import, and only this source wants it

        self.split = validate_choice("split", split, self.splits)
        self.name = "digits" if split == "test" else "digits/train"
        if size < 8:
            raise UserError(f"size={size} is smaller than the digits are; choose 8 or more")
        self.size = size
        self.class_names = list(CLASS_NAMES)
        self.templates = list(EVAL_TEMPLATES)
        images, labels = map(np.asarray, load_digits(return_X_y=True))
        is_test = _test_rows(labels)
        rows = np.flatnonzero(is_test if split == "test" else ~is_test)
        self._images = np.stack([_upscale(image, size) for image in images[rows].reshape(-1, 8, 8)])
        self._labels: list[int] = labels[rows].tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        label = self._labels[index]
        templates = TRAIN_TEMPLATES if self.split == "train" else EVAL_TEMPLATES
        return Record(
            image=np.repeat(self._images[index][:, :, None], 3, axis=2),
            captions=[template.format(c=CLASS_NAMES[label]) for template in templates],
            id=stable_id("digits", CLASS_NAMES[label]),
            label=label,
        )


def _test_rows(labels: np.ndarray) -> np.ndarray:
    """Returns which rows are the test split: every fifth of each class."""
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return is_test


def _upscale(image: np.ndarray, size: int) -> UInt8[np.ndarray, "size size"]:
    """Scales an 8 x 8 image with values 0 to 16 to `size` x `size` with values 0 to 255."""
    grey = np.round(image * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))
