"""Tables of positions for another size, and what makes towers differ."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config.schema import base_config, parse, set_group
from mmjax.nn import positions
from mmjax.training import init_towers
from mmjax.training.init_towers import Tower

LAYERS = dict(width=6, depth=1, heads=2, mlp_dim=8)


def table(path, kind, **settings):
    return init_towers.table_of(path, Tower(path.split("/")[0], kind, kind, settings))


def random_table(rows):
    return jnp.asarray(np.random.default_rng(rows).normal(size=(rows, 6)), jnp.float32)


def test_texts_are_cut_or_stretched():
    old = table("text/position_embedding", "text", context_length=5)
    shorter, longer = (table("text/position_embedding", "text", context_length=length) for length in (3, 8))
    rows = random_table(5)
    np.testing.assert_array_equal(init_towers.resample(rows, old, shorter), rows[:3])
    line = init_towers.describe_resampling("text/position_embedding", old, shorter)
    assert line == "cut text/position_embedding from 5 to its first 3"
    # The centre of each row, as a share of the whole.
    centres = ((np.arange(8) + 0.5) / 8) * 5 - 0.5
    want = np.stack([np.interp(centres, np.arange(5), rows[:, i]) for i in range(6)], axis=1)
    np.testing.assert_allclose(init_towers.resample(rows, old, longer), want, atol=1e-6)
    assert init_towers.describe_resampling("x", old, longer) == "interpolated x from 5 to 8"


@pytest.mark.full
@pytest.mark.parametrize("old, new", [(5, 8), (16, 77), (7, 7), (9, 4), (1, 3)])
def test_stretched_as_pytorch_does(old, new):
    import torch

    rows = random_table(old)
    want = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(rows, np.float64).T[None]), size=new, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(positions.stretch_positions(rows, new), want[0].numpy().T, atol=1e-6)


def test_times_keep_their_place_where_there_are_fewer():
    sound = dict(mel_bins=8, patch_size=(4, 4), stride=None, class_token=True, distillation_token=True)
    path = "audio/position_embedding"
    old, new = (table(path, "audio", frames=frames, **sound) for frames in (16, 8))
    assert (old.grid, old.prefix, new.grid) == ((4, 2), 2, (2, 2))
    rows = random_table(10)
    np.testing.assert_array_equal(init_towers.resample(rows, old, new), rows[:6])
    frames = [table("video/time_embedding", "frames", frames=frames) for frames in (6, 4)]
    np.testing.assert_array_equal(init_towers.resample(rows[:6], *frames), rows[:4])
    stretched = init_towers.resample(rows[:4], *frames[::-1])
    matrix = positions.bicubic_matrix(4, 6, antialias=True)
    np.testing.assert_allclose(stretched, matrix @ rows[:4], atol=1e-6)


def test_videos_along_each_axis():
    path, video = "video/position_embedding", dict(patch_size=4, tubelet_frames=2, class_token=True)
    joint = [table(path, "video", frames=f, image_size=s, positions="joint", **video) for f, s in ((4, 8), (8, 12))]
    assert [x.grid for x in joint] == [(2, 2, 2), (4, 3, 3)]
    rows, (time, space) = random_table(9), (positions.bicubic_matrix(a, b, antialias=True) for a, b in ((2, 4), (2, 3)))
    want = np.einsum("Tt,Hh,Ww,thwD->THWD", time, space, space, rows[1:].reshape(2, 2, 2, 6)).reshape(36, 6)
    np.testing.assert_allclose(init_towers.resample(rows, *joint), np.concatenate([rows[:1], want]), atol=1e-5)
    apart = table(path, "video", frames=4, image_size=8, positions="factorised", **video)
    assert apart.grid == (2, 2) and not init_towers.can_resample(apart, joint[1])


def test_whispers_sines_are_cut_and_not_stretched():
    old, new = (table("audio/position_embedding", "whisper", frames=frames) for frames in (12, 8))
    assert init_towers.can_resample(old, new) and not init_towers.can_resample(new, old)


def test_towers_of_models():
    config = base_config("tiny")
    frames = dict(LAYERS, kind="frames", frames=4, image_size=8, patch_size=4, pool="mean", projection="linear")
    set_group(config, "model", dict(kind="two_tower", embed_dim=8, video=frames, text=config.model.text.to_dict()))
    parts = init_towers.towers(parse(config).model)
    assert [(t.prefix, t.kind) for t in parts] == [("video", "frames"), ("video/image", "image"), ("text", "text")]
    inner = init_towers.tower_of("video/image/norm/scale", parts)
    assert inner.prefix == "video/image" and init_towers.tower_of("video_head/x", parts) is None


def test_what_makes_towers_differ():
    old = Tower("image", "image", "image", dict(LAYERS, activation="gelu", patch_size=4, stride=None, pool="cls"))
    assert init_towers.different_settings(old, Tower("a", "image", "a", dict(patch_size=4, stride=4))) == []
    other = Tower("a", "image", "encoders.a", dict(activation="quick_gelu", pool="mean"))
    assert init_towers.different_settings(old, other) == ["model.encoders.a.activation: gelu -> quick_gelu"]
    assert init_towers.different_head_settings(old, other) == ["model.encoders.a.pool: cls -> mean"]
