"""The transform of examples of several modalities, some of which may be missing."""

import dataclasses

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.example_transforms import add_path_to_errors, id_words
from mmjax.data.loading.inputs import Arrays, InputSpecs
from mmjax.data.record import Record


@dataclasses.dataclass(frozen=True)
class ModalityTransform:
    """Several modalities of one example, some of which may be missing, and its label.

    Gives an array of each by its name, zeros where it is missing; `present` bool [M], in sorted order of name; `label`
    int32 [] and `id` uint32 [2].

    Attributes:
      inputs: how the modalities are prepared.

    Raises:
      ValueError: no modality, or two of one name.
    """

    inputs: InputSpecs

    def __post_init__(self):
        if not self.inputs.names:
            raise ValueError("no modalities")
        if len(set(self.inputs.names)) < len(self.inputs.names):
            raise ValueError("'image' is among the arrays and the record's image; name the array otherwise")

    @property
    def names(self) -> tuple[str, ...]:
        """All modalities, in the order of `present`."""
        return tuple(sorted(self.inputs.names))

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            if "label" not in record:
                raise BadExample("other", "no label")
            arrays = self.inputs.present(record, rng)
            if not arrays:
                raise BadExample("no_input", f"none of {', '.join(self.names)}")
        return {
            **self.inputs.blank_training(),
            **arrays,
            "present": np.array([name in arrays for name in self.names], bool),
            "label": np.array(record["label"], np.int32),
            "id": id_words(record["id"]),
        }
