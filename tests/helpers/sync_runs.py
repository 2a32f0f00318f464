"""Tiny models that synchronise, and files of videos with their sounds."""

import io

import av
import numpy as np

from mmjax.config import base_config, set_group
from mmjax.data.sources.bouncing import Bouncing

LAYERS = dict(width=16, heads=2, mlp_dim=16, depth=1, dropout=0.0, scan=False, class_token=False)


def config(**changes):
    """Windows of two frames and ten of the spectrogram, four a clip, three shifts each way; `__` stands for a dot."""
    result = base_config("tiny")
    video = dict(LAYERS, kind="video", frames=2, image_size=8, patch_size=8, tubelet_frames=1)
    audio = dict(LAYERS, kind="audio", frames=10, mel_bins=4, patch_size=(5, 4))
    set_group(result, "model", dict(kind="two_tower", embed_dim=8, video=video, audio=audio))
    result.objectives.sync = 1.0
    result.loss.sync_shifts, result.loss.sync_windows = 3, 4
    result.data.audio.sample_rate = 8000
    result.data.video.rate, result.data.video.stride = 20.0, 1
    result.data.train, result.data.eval = "bouncing", "bouncing/test"
    result.precision = "float32"
    result.data.mean_std, result.data.train_resize = "siglip", "squash"
    result.steps, result.batch_size, result.eval.batch_size = 2, 16, 8
    result.schedule.warmup, result.schedule.name = 1, "constant"
    result.checkpoint.every, result.eval.every, result.log.every = 2, 0, 1
    result.log.tensorboard = False
    with result.ignore_type():
        result.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return result


def write_mp4(path, index=0, seconds=3.0, *, rate=20, sound=True):
    """An MP4 of a scene of `bouncing`, with its sound or without; returns the record."""
    record = Bouncing("test", frames=rate, seconds=seconds, size=64)[index]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for picture in record["modalities"]["video"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
        if track is not None:
            samples = np.repeat(record["modalities"]["audio"], 6)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    path.write_bytes(file.getvalue())
    return record
