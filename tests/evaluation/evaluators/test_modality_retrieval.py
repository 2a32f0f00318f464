"""Retrieval between modalities, with a model whose embeddings are planted."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.data.text import make_tokenizer
from mmjax.errors import UserError
from mmjax.evaluation.embedding import batched_apply
from mmjax.evaluation.evaluators.modality_retrieval import ModalityRetrievalEvaluator, other_pairs
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers.evaluated_sources import array_specs, evaluated

SPECS = array_specs({"audio": (4,), "video": (4,)})
TEXTS = ["a red ring", "a blue square", "a green cross", "a ring", "a circle", "a red square"]


class Source:
    name, class_names, templates = "planted", None, None

    def __init__(self, lacking=None):
        rng = np.random.default_rng(0)
        self.video = rng.standard_normal((6, 4)).astype(np.float32)
        self.audio = self.video + rng.standard_normal((6, 4)).astype(np.float32)
        self.lacking = lacking

    def __len__(self):
        return 6

    def __getitem__(self, index):
        modalities = {"video": self.video[index], "audio": None if index == self.lacking else self.audio[index]}
        return {"id": index, "captions": [TEXTS[index], "another"], "modalities": modalities}


class Task:
    seen = "video"
    pairs = (("video", "text", 1.0), ("video", "audio", 1.0), ("audio", "text", 1.0))

    def embed_modality(self, params, name, array):
        return array / jnp.linalg.norm(array, axis=1, keepdims=True)

    def embed_text(self, params, ids, mask):
        vectors = jnp.cos(jnp.arange(4.0) * (1.0 + ids.sum(axis=1, keepdims=True)))
        return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)


def evaluator(task):
    runner = batched_apply.BatchRunner(make_mesh(parse(base_config()).mesh, jax.devices()[:2]), 4)
    return ModalityRetrievalEvaluator(task, runner, make_tokenizer.make_tokenizer("bytes", 16))


def test_recalls_are_those_of_brute_force():
    source = Source()
    result = evaluator(Task())(evaluated(source, SPECS))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = unit(source.video.astype(np.float64)) @ unit(source.audio.astype(np.float64)).T
    ranks = (scores >= np.diag(scores)[:, None]).sum(axis=1), (scores >= np.diag(scores)[None]).sum(axis=0)
    assert result.n == 6
    assert result.metrics["video_to_audio_recall@1"] == pytest.approx((ranks[0] <= 1).mean())
    assert result.metrics["audio_to_video_recall@1"] == pytest.approx((ranks[1] <= 1).mean())
    assert result.metrics["audio_to_video_mean_rank"] == pytest.approx(ranks[1].mean())
    sides = {name.split("_recall")[0] for name in result.metrics if "_recall" in name}
    assert sides == {"video_to_audio", "audio_to_video", "audio_to_text", "text_to_audio"}
    assert "audio_text_rsum" in result.metrics


def test_the_pair_of_texts_and_what_is_seen_first_is_not_its_own():
    assert other_pairs(Task()) == [("video", "audio"), ("audio", "text")]
    assert other_pairs(types.SimpleNamespace(seen="image", pairs=(("image", "text", 1.0),))) == []


def test_an_example_without_a_modality_is_one_line():
    with pytest.raises(UserError, match="the example of id 3 of 'planted' has no audio; leave it out"):
        evaluator(Task())(evaluated(Source(lacking=3), SPECS))
