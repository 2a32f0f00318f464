"""Attention of classifiers of several modalities, against a computation from the parameters in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.evaluation.evaluators.attention_maps import ModalityAttentionRenderer
from mmjax.inference import checkpoint_source, eval_model
from tests.helpers import media_models, model_kinds, runs
from tests.tasks.test_tower_attention import attention_of, flow, inputs_of_layers


def classifier(fusion, depth=2):
    config = media_models.fused()
    for name in ("video", "audio"):
        config.model.encoders[name].depth = depth
    with config.unlocked():
        config.model.fusion = fusion
    return config


JOINT = dict(media_models.LAYERS, kind="joint", depth=2)
POOLED = dict(kind="weighted", width=16, pool="mean")


@pytest.mark.parametrize("fusion", [JOINT, pytest.param(POOLED, marks=pytest.mark.full)], ids=["joint", "pooled"])
def test_maps_are_those_of_the_parameters(fusion, random_params):
    task = model_kinds.task(classifier(fusion))
    params = random_params(jax.eval_shape(task.init, jax.random.key(0)), std=0.4)
    rng = np.random.default_rng(0)
    batch = {spec.name: jnp.asarray(100 * rng.random((2, *spec.shape)), spec.dtype) for spec in task.input_specs.others}
    present = jnp.ones((2, 2), bool)
    maps = jax.jit(task.modality_attention)(params, batch, present)
    arrays = {name: task.inputs.normalize(x, name) for name, x in batch.items()}
    seen = inputs_of_layers(task.model, params, lambda model: model(arrays, present))
    towers = {name: attention_of(seen[f"encoder_{name}/transformer"], params[f"encoder_{name}"]) for name in batch}
    counts = {name: layers.shape[-1] for name, layers in sorted(towers.items())}
    if fusion is JOINT:
        layers = attention_of(seen["fusion/transformer"], params["fusion"])
        first = np.tile(np.eye(layers.shape[-1])[0], (2, 1))
        ends = 1 + np.cumsum(list(counts.values()))
        cut = lambda row: dict(zip(counts, np.split(row[:, 1:], ends[:-1] - 1, axis=1), strict=True))
        last, rolled = cut(layers[-1][:, 0]), cut(flow(first, layers))
    else:
        rolled = {name: np.full((2, count), 1 / count) for name, count in counts.items()}
        last = {name: np.einsum("bn,bnm->bm", row, towers[name][-1]) for name, row in rolled.items()}
    for name in batch:
        np.testing.assert_allclose(maps[name]["last"], last[name], atol=1e-5)
        np.testing.assert_allclose(maps[name]["rollout"], flow(rolled[name], towers[name]), atol=1e-5)
        assert np.ptp(np.asarray(maps[name]["last"])) > 1e-4


def test_what_is_shown():
    shown = lambda fusion: model_kinds.task(classifier(fusion, depth=1)).shown_modalities
    assert shown(JOINT) == shown(POOLED) == ("audio", "video")
    assert shown(dict(media_models.LAYERS, kind="bottleneck", depth=2)) == ()


class Source:
    name, class_names, templates = "made", ["one", "two"], None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        modalities = {"video": rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)}
        if index:
            modalities["audio"] = rng.standard_normal(8000).astype(np.float32)
        return {"id": index, "label": index, "modalities": modalities, "rates": {"audio": 8000}}


@pytest.mark.full
def test_panels_of_the_report(tmp_path, random_params):
    model_kinds.save(random_params, classifier(JOINT, depth=1), tmp_path)
    with runs.on_devices(1):
        model = eval_model.open_workdir(checkpoint_source.RunCheckpoint(tmp_path))
    renderer = ModalityAttentionRenderer(model.task, model.mesh)
    one, two = renderer(model.restore(), EvalExamples(Source(), model.task.input_specs))
    maps = ["attention, last layer", "attention rollout"]
    assert [panel.title for panel in one.maps] == ["video", *maps] and one.maps[0].detail == "one"
    assert [panel.title for panel in two.maps] == ["audio", *maps, "video", *maps]
