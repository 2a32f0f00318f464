"""Maps over frames in a row and over spectrograms: where the warmest colour is."""

import numpy as np
import pytest

from mmjax.config import base_config, set_group
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.evaluation.canvases import FramesCanvas, ImageCanvas, SpectrogramCanvas
from mmjax.evaluation.evaluators.attention_maps import AttentionMapRenderer
from mmjax.evaluation.example_selection import AttentionPanels
from mmjax.inference import checkpoint_source, eval_model
from mmjax.models.fusion.config import AudioEncoderConfig
from mmjax.tasks.token_grids import covered_size
from tests.evaluation.test_views import RATE, sound, video
from tests.helpers import media_models, model_kinds, runs


def warmest(canvas, cells, longest=160):
    """Where the drawn map is most like the last colour, a yellow: its middle as shares of height and width."""
    drawn = canvas.overlay(cells, float(cells.min()), float(cells.max()), longest).astype(int)
    warmth = drawn[..., 0] + drawn[..., 1] - 2 * drawn[..., 2]
    rows, columns = np.nonzero(warmth > warmth.max() - 20)
    return (rows.mean() + 0.5) / drawn.shape[0], (columns.mean() + 0.5) / drawn.shape[1]


def one_cell(shape, *cell):
    cells = np.zeros(shape, np.float32)
    cells[cell] = 1
    return cells


def test_a_token_is_drawn_over_its_frame_and_patch():
    canvas = FramesCanvas(np.full((8, 16, 16, 3), 90, np.uint8))
    for time, row, column in ((0, 0, 0), (2, 1, 0), (3, 1, 1)):
        y, x = warmest(canvas, one_cell((4, 2, 2), time, row, column))
        assert y == pytest.approx(0.15 + 0.7 * row, abs=0.12)
        assert 4 * x == pytest.approx(time + 0.15 + 0.7 * column, abs=0.15)
    # A map without times is the same over all frames, of which eight are shown.
    drawn = canvas.overlay(one_cell((1, 2, 2), 0, 1, 1), 0.0, 1.0, 40)
    assert drawn.shape == (20, 8 * 20 + 7 * 2, 3)
    np.testing.assert_array_equal(drawn[:, :20], drawn[:, -20:])
    assert FramesCanvas(np.zeros((60, 8, 8, 3), np.uint8)).draw(40).shape == (20, 8 * 20 + 7 * 2, 3)


def test_time_runs_to_the_right_and_low_frequencies_are_at_the_bottom():
    canvas = SpectrogramCanvas(np.zeros((40, 20), np.float32))
    y, x = warmest(canvas, one_cell((1, 4, 2), 0, 0, 0))
    assert y > 0.75 and x < 0.2
    y, x = warmest(canvas, one_cell((1, 4, 2), 0, 3, 1))
    assert y < 0.25 and x > 0.8
    # What lies beyond the last patch is not shown.
    encoder = AudioEncoderConfig(
        frames=40, mel_bins=20, patch_size=(16, 8), stride=(10, 8), width=8, depth=1, heads=1, mlp_dim=8
    )
    assert covered_size(encoder) == (36, 16)
    array = np.zeros((40, 20), np.float32)
    array[36:], array[:, 16:] = 1, 1
    assert np.ptp(SpectrogramCanvas(array, covered_size(encoder)).draw(60)) == 0


def test_an_image_is_drawn_as_it_is():
    canvas = ImageCanvas(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    np.testing.assert_array_equal(canvas.draw(16), canvas.array)
    y, x = warmest(canvas, one_cell((1, 2, 2), 0, 1, 0))
    assert y > 0.8 and x < 0.2


def captioner(slot, fields):
    config = base_config("tiny-captioner")
    set_group(config, "model", config.model.to_dict() | {"image": None, slot: dict(fields, kind=slot)})
    config.objectives.caption, config.data.tokenizer, config.precision = 1.0, "words:shapes", "float32"
    config.data.audio.sample_rate = RATE
    return config


class Source:
    name, class_names, templates = "made", None, None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        record = {"id": index, "captions": [["a red circle", "a blue square", "a green ring"][index]]}
        modalities = {"video": video(index), "audio": sound(index)}
        return record | {"modalities": modalities, "rates": {"audio": RATE}}


@pytest.mark.full
@pytest.mark.parametrize(
    ("config", "titles", "words"),
    [
        (media_models.towers("video", "text"), ["video", "attention, last layer", "attention rollout", "own text"], 0),
        (captioner("video", media_models.VIDEO), ["video"], 3),
        (captioner("audio", media_models.AUDIO), ["audio"], 3),
    ],
    ids=["video", "video-captioner", "audio-captioner"],
)
def test_panels_of_the_report(tmp_path, random_params, config, titles, words):
    model_kinds.save(random_params, config, tmp_path)
    with runs.on_devices(1):
        model = eval_model.open_workdir(checkpoint_source.RunCheckpoint(tmp_path))
    renderer = AttentionMapRenderer(model.task, model.mesh, model.tokenizer, 0)
    panels = renderer(model.restore(), EvalExamples(Source(), model.task.input_specs), None)
    assert len(panels) == 3 and all(isinstance(panel, AttentionPanels) for panel in panels)
    for shown in panels:
        assert [panel.title for panel in shown.maps][: len(titles)] == titles
        assert len(shown.words) == words
        height = {panel.picture.shape[0] for panel in (*shown.maps, *shown.words)}
        assert height == {80}
