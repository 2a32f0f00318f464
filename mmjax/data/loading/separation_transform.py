"""The transform of examples for separation: what is seen of one example, and its sound among those of others."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.loading.example_transforms import add_path_to_errors, id_words
from mmjax.data.loading.inputs import Arrays, InputSpecs, ModalitySpec
from mmjax.data.record import Record

SOUND = "audio"


@dataclasses.dataclass(frozen=True)
class SeparationTransform:
    """Pictures of an example and the magnitudes of a mixture that its sound is in (mix and separate).

    Gives what is seen by its name, `mixture` and `target` float32 [frames, bins]: the magnitudes of the mixture and of
    this example's sound in it; and `id` uint32 [2]. Partners are drawn by `TrainExamples`.

    Attributes:
      inputs: how what is seen is prepared.
      spec: how sounds are cut, mixed and transformed.
    """

    inputs: InputSpecs
    spec: MixtureSpec

    @property
    def partners(self) -> int:
        """How many other examples an example is mixed with."""
        return self.spec.sources - 1

    @property
    def clips(self) -> InputSpecs:
        """How what is seen and its sound are prepared together: a stretch of both begins at one time."""
        return clip_specs(self.inputs, self.spec)

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            return {**self.clips.train(record, rng), "id": id_words(record["id"])}

    def partner(self, record: Record, rng: np.random.Generator) -> Arrays:
        """The sound of another example."""
        with add_path_to_errors(record):
            return InputSpecs(None, (ModalitySpec.decoded(SOUND, self.spec),)).train(record, rng)

    def mix(self, arrays: Arrays, partners: Sequence[Arrays]) -> Arrays:
        """The arrays of an example, with the mixture in place of its sound."""
        part = arrays[SOUND] / np.float32(self.spec.sources)
        mixture = self.spec.mix([arrays[SOUND], *(partner[SOUND] for partner in partners)])
        mixed = {"mixture": self.spec.magnitudes(mixture), "target": self.spec.magnitudes(part)}
        return {name: array for name, array in arrays.items() if name != SOUND} | mixed


def clip_specs(inputs: InputSpecs, spec: MixtureSpec) -> InputSpecs:
    """How what a separator sees is prepared, with a sound beside it."""
    return dataclasses.replace(inputs, others=(*inputs.others, ModalitySpec.decoded(SOUND, spec)), may_lack=False)
