"""Training on videos and sounds from files in three layouts, killed and started again: the same run bit for bit."""

import numpy as np
import pytest

from mmjax.config.schema import set_group
from tests.helpers import runs
from tests.helpers.media import frames, make_sound, make_video, tones
from tests.helpers.tar_sets import write_tar
from tests.training.test_loop_resume import Killed, assert_equal_runs, at_step, within_save

STEPS, EXAMPLES = 8, 12
LAYERS = dict(width=16, depth=1, heads=2, mlp_dim=32, class_token=False)
TOWERS = {
    "video": dict(kind="video", frames=4, image_size=16, patch_size=8, **LAYERS),
    "audio": dict(kind="audio", frames=16, mel_bins=16, patch_size=(8, 8), **LAYERS),
}


def sound(number):
    return tones(3000, 8000)[:, :1] * (0.2 + 0.05 * number)


def write_tars(folder):
    """`mp4` and `txt` in two tars, as video2dataset writes them; one video is broken off, one text is missing."""
    videos = [make_video(pixels=frames(8, (32, 24), number)) for number in range(EXAMPLES)]
    videos[3] = videos[3][:900]
    for shard in range(2):
        members = []
        for number in range(shard * 6, shard * 6 + 6):
            members.append((f"{number:09d}.mp4", videos[number]))
            if number != 8:
                members.append((f"{number:09d}.txt", f"video {number}".encode()))
        write_tar(folder / f"{shard:05d}.tar", members)
    return "video", f"wds:{folder}/{{00000..00001}}.tar", {"bad_corrupt": 1, "bad_no_caption": 1}


def write_table(folder):
    """FLAC and a CSV of captions, as AudioCaps has it; one file is missing, one is empty."""
    rows = ["audiocap_id,youtube_id,start_time,caption"]
    for number in range(EXAMPLES):
        rows.append(f"{number},yt{number},{10 * number},sound {number}")
        if number != 4:
            content = b"" if number == 7 else make_sound("flac", sound(number), rate=8000)
            (folder / f"yt{number}_{10 * number}.flac").write_bytes(content)
    (folder / "train.csv").write_text("\n".join(rows))
    files = f"{folder}/{{youtube_id}}_{{start_time}}.flac"
    return "audio", f"pairs:{folder}/train.csv,images={files}", {"bad_missing": 1, "bad_empty": 1}


def write_folders(folder):
    """WAV by class; one is no sound."""
    for number in range(EXAMPLES):
        path = folder / ("dog", "rain", "siren")[number % 3] / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"<html>" if number == 5 else make_sound("wav", sound(number), rate=8000))
    return "audio", f"folder:{folder}", {"bad_not_media": 1}


@pytest.fixture(scope="module", params=[write_tars, write_table, write_folders], ids=lambda write: write.__name__)
def layout(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return request.param(folder)


def config_of(slot, source):
    config = runs.config(
        steps=STEPS, batch_size=EXAMPLES, data__train=source, data__max_bad_fraction=0.5, eval__every=0, data__eval=""
    )
    model = config.model.to_dict() | {"image": None, slot: TOWERS[slot]}
    set_group(config, "model", model)
    if slot == "video":
        config.data.video.stride, config.data.flip = 1, True
    else:
        config.data.audio.time_masks = (1, 4)
    return config


@pytest.fixture(scope="module")
def undisturbed(layout, tmp_path_factory):
    slot, source, bad = layout
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert runs.train(config_of(slot, source), workdir) is None
    lines = runs.lines(workdir, "train")
    assert len(lines) == STEPS and all(np.isfinite(line["loss"]) for line in lines)
    # An epoch is a step, in which each fault comes once.
    assert {name: count for name, count in lines[-1].items() if name.startswith("bad_")} == {
        name: count * STEPS for name, count in bad.items()
    }
    return workdir


@pytest.mark.parametrize("kill", [at_step(5), pytest.param(within_save(6), marks=pytest.mark.full)], ids=["5", "6"])
def test_killed(kill, layout, undisturbed, tmp_path):
    slot, source, _ = layout
    with kill, pytest.raises(Killed):
        runs.train(config_of(slot, source), tmp_path)
    assert runs.train(config_of(slot, source), tmp_path) is None
    assert_equal_runs(tmp_path, undisturbed, STEPS)
