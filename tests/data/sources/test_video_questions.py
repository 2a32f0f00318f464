"""Questions that a video answers: those of `moving`, but for the walls."""

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources.moving import Moving
from mmjax.data.sources.moving_questions import TYPES
from mmjax.data.sources.video_questions import VideoQuestions
from mmjax.errors import UserError


@pytest.mark.parametrize("split", VideoQuestions.splits)
def test_records_are_those_of_moving_but_for_questions_about_the_walls(split):
    source, scenes = VideoQuestions(split), Moving(split)
    assert isinstance(source, Source) and isinstance(source, HasModalities) and len(source) == len(scenes)
    changed, types = 0, set()
    for index in range(120):
        record, scene = source[index], scenes[index]
        assert record_mistake(record) == "" and record["captions"] == scene["captions"]
        np.testing.assert_array_equal(record["modalities"]["video"], scene["modalities"]["video"])
        if scene["question_type"] == "walls":
            changed += 1
            assert record["question"] != scene["question"] and source[index]["question"] == record["question"]
        else:
            assert record["question"] == scene["question"] and record["answers"] == scene["answers"]
        types.add(record["question_type"])
        assert set(record["answers"]) <= set(source.answer_names)
    assert changed > 5 and types == set(TYPES) - {"walls"}
    assert source[-1]["question"] == source[len(source) - 1]["question"]


def test_the_source_has_a_name_and_splits():
    assert open_source("video_questions/test").name == "video_questions"
    with pytest.raises(UserError, match="data.eval='video_questions/tset': split='tset'.*did you mean 'test'"):
        open_source("video_questions/tset", field="data.eval")
