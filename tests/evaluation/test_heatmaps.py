"""Rollout, upsampling and overlays against brute force; what a report shows of a model's inside."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.loading.eval_examples import EvalExample
from mmjax.data.text import make_tokenizer
from mmjax.evaluation import heatmaps
from mmjax.evaluation.evaluators import attention_maps
from mmjax.evaluation.example_selection import Artifacts, AttentionPanels, Panel
from mmjax.evaluation.results import Evaluation
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.report.test_page import HOSTILE, Page, check_self_contained, render

# -- rollout -------------------------------------------------------------------------------------------------------


def attention(depth=3, batch=2, heads=4, count=5, seed=0):
    logits = np.random.default_rng(seed).standard_normal((depth, batch, heads, count, count))
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize("head, residual", [("mean", 0.5), ("max", 0.5), ("min", 0.3), ("mean", 0.0), ("mean", 1.0)])
def test_rollout_sums_over_all_paths(head, residual):
    """Against the sum over every path through the layers, of the product of its shares."""
    weights = attention()
    layers = np.array([[getattr(heads, head)(axis=0) for heads in layer] for layer in weights])
    layers /= layers.sum(axis=-1, keepdims=True)
    layers = residual * np.eye(5) + (1 - residual) * layers
    expected = np.zeros((2, 5, 5))
    for b, t, s, u, v in np.ndindex(2, 5, 5, 5, 5):  # from input s over u and v to output t
        expected[b, t, s] += layers[2, b, t, v] * layers[1, b, v, u] * layers[0, b, u, s]
    result = heatmaps.rollout(weights, head=head, residual=residual)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_allclose(result.sum(-1), 1)


def test_a_token_that_attends_to_nothing_keeps_to_itself():
    weights = np.zeros((2, 1, 1, 3, 3))
    np.testing.assert_array_equal(heatmaps.rollout(weights)[0], np.eye(3))


@pytest.mark.parametrize("settings, message", [(dict(head="median"), "mean, max, min"), (dict(residual=1.5), "1.5")])
def test_rollout_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        heatmaps.rollout(attention(), **settings)


# -- maps ----------------------------------------------------------------------------------------------------------


def bilinear(cells, height, width):
    """Pixel by pixel, between the centres of cells, the border repeated."""
    rows, columns = cells.shape
    out = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
        x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
        top, left = min(int(y), max(rows - 2, 0)), min(int(x), max(columns - 2, 0))
        for r, c in np.ndindex(min(2, rows), min(2, columns)):
            share = max(0, 1 - abs(y - top - r)) * max(0, 1 - abs(x - left - c))
            out[i, j] += share * cells[top + r, left + c]
    return out


@pytest.mark.parametrize("grid, size", [((2, 3), (8, 12)), ((3, 2), (7, 9)), ((4, 4), (4, 4)), ((1, 3), (5, 6))])
@pytest.mark.parametrize("first", [0, 1, 5], ids=["patches alone", "class token", "class token and registers"])
def test_values_of_tokens_become_a_picture(grid, size, first):
    cells = np.random.default_rng(0).standard_normal(grid).astype(np.float32)
    values = np.concatenate([np.full(first, 1e6, np.float32), cells.ravel()])
    np.testing.assert_allclose(heatmaps.patch_map(values, grid, size), bilinear(cells, *size), atol=1e-5)


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="3 values are fewer than 2 x 2 patches"):
        heatmaps.patch_map(np.zeros(3, np.float32), (2, 2), (4, 4))


def test_an_overlay_has_the_colours_of_its_scale():
    image = np.full((4, 6, 3), 90, np.uint8)
    heat = np.linspace(-1, 3, 24).reshape(4, 6)
    colours = heatmaps.overlay(image, heat, 0.0, 2.0, strength=1.0)
    stops = [tuple(bytes.fromhex(stop[1:])) for stop in heatmaps.colormap_stops(2)]
    assert stops == [(68, 1, 84), (253, 231, 37)]  # viridis
    assert tuple(colours[0, 0]) == stops[0] and tuple(colours[-1, -1]) == stops[1]
    light = colours @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(light.ravel()) >= -1).all() and light[-1, -1] - light[0, 0] > 100  # also readable in grey


def test_an_overlay_without_strength_is_the_grey_image_and_a_flat_map_is_the_lowest_colour():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    grey = heatmaps.overlay(image, np.zeros((5, 5)), 0.0, 1.0, strength=0.0)
    light = image @ np.array([0.299, 0.587, 0.114])
    assert (grey == grey[..., :1]).all()
    assert np.corrcoef(grey[..., 0].ravel(), light.ravel())[0, 1] > 0.999 and grey.min() == 48 and grey.max() == 255
    flat = heatmaps.overlay(image, np.full((5, 5), 7.0), 7.0, 7.0, strength=1.0)
    assert (flat == [68, 1, 84]).all()


@pytest.mark.parametrize("shape, expected", [((32, 32), (160, 160)), ((16, 32), (80, 160)), ((400, 224), (160, 90))])
def test_pictures_have_one_size(shape, expected):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = heatmaps.resize_longest(image, 160)
    assert result.shape == (*expected, 3)
    if shape[0] < 160 >= shape[1]:
        scale = 160 // max(shape)
        np.testing.assert_array_equal(result, image.repeat(scale, 0).repeat(scale, 1))


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["clip", "bytes"])
def test_words_have_the_places_of_their_tokens(spec):
    tokenizer = make_tokenizer.make_tokenizer(spec, 40)
    ids, mask = tokenizer(["a redcircle, below"])
    words = attention_maps.word_token_positions(tokenizer, ids[0].tolist())
    assert "".join(word for word, _ in words) == "aredcircle,below"
    flat = [position for _, positions in words for position in positions]
    # Every token between the first and the last id belongs to one word, in order.
    assert flat == list(range(1, int(mask[0].sum()) - 1))
    for word, positions in words:
        assert tokenizer.decode(ids[0][positions]).strip() == word


# -- the report ----------------------------------------------------------------------------------------------------

COUNT = 5  # a class token and four patches


class Task:
    """A task with planted attention maps: bright patches count, times the ids of texts."""

    def attention_maps(self, params, images, texts, masks, words, words_mask):
        rows = len(images)
        bright = images[:, :16].reshape(rows, 2, 8, 2, 8, 3).mean((2, 4, 5)).reshape(rows, 4) > 128
        reading = jnp.pad(bright / 1.0, ((0, 0), (1, 0)))
        return {
            "layers": jnp.broadcast_to(jnp.eye(COUNT), (rows, 2, COUNT, COUNT)),
            "reading": reading,
            "last": reading,
            "patches": reading[:, None] * texts[:, :, 1, None],
            "whole": texts[:, :, 1] / 100,
            "words": jnp.where(words_mask, words, 0)[:, :, None] * reading[:, None],
        }


class Examples(list):
    def read(self, indices):
        return (self[i] for i in indices)


def view():
    mesh = make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    return attention_maps.AttentionMapRenderer(Task(), mesh, make_tokenizer.make_tokenizer("bytes", 16), 8)


def test_a_view_shows_images_texts_and_words():
    image = np.zeros((17, 16, 3), np.uint8)  # a row of pixels beyond the last patch
    image[:8, 8:16] = 255
    texts = ["aa b", "bb", "aa b", "cc"]
    shown = Examples(EvalExample({"image": image}, [text], None, number) for number, text in enumerate(texts))
    written = lambda index, example: (np.array([256, *f"{index} xy".encode(), 257, 258], np.int32), 1)
    result = view()({}, shown, written)
    assert [[look.title for look in panels.maps] for panels in result] == [
        ["image", "attention, last layer", "attention rollout", "own text", "another image's text"]
    ] * 4
    # A wrong text is never the same one.
    assert [panels.maps[4].detail.split(": ")[1] for panels in result] == ["bb", "aa b", "cc", "aa b"]
    assert result[0].maps[3].detail == f"cosine {ord('a') / 100:.2f}: aa b"
    assert [look.title for look in result[2].words] == ["2", "xy"]
    nothing = types.SimpleNamespace(
        attention_maps=lambda params, images, *_: {"words": jnp.zeros((len(images), 16, COUNT))}
    )
    silent = attention_maps.AttentionMapRenderer(nothing, view().runner.mesh, view().tokenizer, 8)
    assert silent({}, shown, lambda index, example: (np.array([257, 258], np.int32), 1)) == []
    for look in result[0].maps:
        assert look.picture.shape == (160, 160, 3)
    hot = result[0].maps[1].picture.astype(int)
    assert hot[20, 140, 0] > 200 > hot[140, 20, 0] and hot[20, 140, 1] > 200  # yellow where it is bright


def test_the_section_is_self_contained_escaped_and_tells_what_it_shows():
    picture = np.zeros((160, 90, 3), np.uint8)
    looks = [Panel(picture, title, HOSTILE) for title in ("image", "attention rollout", "own text")]
    shown = Artifacts(
        [], [], attention=[AttentionPanels(looks, [Panel(picture[:80], HOSTILE)], "Where each word looks")] * 6
    )
    text, page = render(history=[], evaluations=[Evaluation(f"scenes {HOSTILE}", "image_captioning", 6, {}, shown)])
    check_self_contained(text, page)
    assert page.tags.count("figure") == page.tags.count("img") == 6 * 4
    assert "Looking inside: scenes" in page.text and "not why the model answers as it does" in page.text
    assert "linear-gradient(90deg,#440154" in text
    assert isinstance(page, Page) and "<script" not in text.lower()


def test_nothing_is_shown_of_a_model_that_offers_nothing():
    _, page = render(history=[], evaluations=[Evaluation("scenes", "image_captioning", 6, {}, Artifacts([], []))])
    assert "Looking inside" not in page.text
