"""The transform of examples of several modalities, some of which may be missing."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.image import frames
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import Arrays, add_path_to_errors, id_words, image_arrays
from mmjax.data.record import Record


@dataclasses.dataclass(frozen=True)
class ModalityTransform:
    """Several modalities of one example, some of which may be missing, and its label.

    Gives `modality_NAME` float32 of each shape, zeros where it is missing; `present` bool [M], in
    sorted order of name; `label` int32 [] and `id` uint32 [2]. With an `image_spec` the record's image is a modality,
    too: it is called `image` in `present`, and travels as `image` uint8 [H,W,3] like every other image.

    Attributes:
      shapes: of each modality, by name: a mapping, or (name, shape) pairs.
      image_spec: size and crop of the record's image, where that is a modality.
      nan_allowed: the modalities in which NaN stands for a single missing value, as a table's encoder takes it.

    Raises:
      ValueError: no modality, or `image` in `shapes` beside an `image_spec`.
    """

    shapes: Mapping[str, Sequence[int]] | tuple[tuple[str, tuple[int, ...]], ...]
    image_spec: ImageSpec | None = None
    nan_allowed: tuple[str, ...] = ()

    def __post_init__(self):
        # Pairs, sorted: equal transforms compare equal and have one hash.
        object.__setattr__(self, "shapes", self.sorted_shapes)
        if self.image_spec is not None and any(name == "image" for name, _ in self.sorted_shapes):
            raise ValueError("'image' is among the shapes and the record's image; name the array otherwise")
        if not self.names:
            raise ValueError("no modalities")

    @functools.cached_property
    def sorted_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The shapes as pairs, in the order of name."""
        pairs = self.shapes.items() if isinstance(self.shapes, Mapping) else self.shapes
        return tuple(sorted((name, tuple(shape)) for name, shape in pairs))

    @property
    def names(self) -> tuple[str, ...]:
        """All modalities, in the order of `present`."""
        names = [name for name, _ in self.sorted_shapes]
        return tuple(sorted([*names, "image"] if self.image_spec is not None else names))

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        if "label" not in record:
            raise BadExample("other", "no label")
        arrays, present = self.arrays(record)
        spec = self.image_spec
        if spec is not None:
            present["image"] = record.get("image") is not None
            if present["image"]:
                with add_path_to_errors(record):
                    arrays |= image_arrays(record, spec, rng)
            else:
                arrays |= _black_image(spec)
        return {
            **arrays,
            "present": np.array([present[name] for name in self.names], bool),
            "label": np.array(record["label"], np.int32),
            "id": id_words(record["id"]),
        }

    def arrays(self, record: Record) -> tuple[Arrays, dict[str, bool]]:
        """The `modality_NAME` arrays of a record, and which of them are present; nothing is drawn.

        Raises:
          BadExample: an array of another shape, or with a value that is not finite.
        """
        modalities, present = record.get("modalities", {}), {}
        arrays: Arrays = {}
        for name, shape in self.sorted_shapes:
            value = modalities.get(name)
            present[name] = value is not None
            array = np.zeros(shape, np.float32) if value is None else np.asarray(value, np.float32)
            if array.shape != shape:
                raise BadExample("other", f"modality {name!r} has shape {array.shape}, not {shape}")
            bad = np.isinf(array) if name in self.nan_allowed else ~np.isfinite(array)
            if bad.any():
                raise BadExample("other", f"modality {name!r} holds a value that is not finite")
            arrays[f"modality_{name}"] = array
        return arrays, present


def _black_image(spec: ImageSpec) -> Arrays:
    """The arrays of a missing image: black."""
    if spec.frame:
        frame, box = frames.blank_frame(spec)
        return {"image": frame, "image_box": box}
    return {"image": np.zeros((spec.size, spec.size, 3), np.uint8)}
