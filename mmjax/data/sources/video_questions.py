"""The scenes of `moving` with questions that their video answers: none is about what the walls are made of."""

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record
from mmjax.data.sources import moving_questions
from mmjax.data.sources.moving import Moving
from mmjax.metrics.vqa_answers import HUMANS, answer_type
from mmjax.utils.random_streams import VideoQuestionStream

HEARD = "walls"  # the type of question that the sound alone answers


class VideoQuestions:
    """Scenes of two moving objects with questions about what is seen; example i is a pure function of (split, i).

    Records are those of `moving`; in place of a question about the walls there is another one.

    Args:
      split: "train" or "test", as of `moving`.
      frames, size, sample_rate, length: see `Moving`.

    Attributes:
      answer_names: all answers, sorted.
      modality_shapes: of `video` and `audio`.

    Raises:
      UserError: as `Moving`.
    """

    class_names = None
    splits = Moving.splits
    templates = None
    answer_names = Moving.answer_names

    def __init__(
        self,
        split: str = "train",
        frames: int = 8,
        size: int = 32,
        sample_rate: int = 8000,
        length: int | None = None,
    ):
        self._scenes = Moving(split, frames, size, sample_rate, length)
        self.split = split
        self.name = "video_questions" if split == "test" else "video_questions/train"
        self.modality_shapes = self._scenes.modality_shapes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Record:
        record = self._scenes[index]
        if record.get("question_type") != HEARD:
            return record
        stream = VideoQuestionStream.TEST if self.split == "test" else VideoQuestionStream.TRAIN
        rng = example_rng(stream, range(len(self))[index])
        annotation = record.get("annotation", {})
        while True:
            question = moving_questions.ask(annotation["objects"], annotation["walls"], rng)
            if question.template != HEARD:
                break
        answers = [question.answer] * HUMANS
        fields = dict(question=question.text, answers=answers, question_type=question.template)
        return Record(**{**record, **fields, "answer_type": answer_type(answers)})
