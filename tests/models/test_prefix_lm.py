"""The prefix language model: the connector's size, cached decoding, and who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.prefix_lm import Connector, PrefixLM
from mmjax.nn import attention
from tests.helpers import torch_writers, writing_models

ASKING = dict(prefix_text=True, text__sep_id=writing_models.SEP)
LLAVA = dict(prefix="causal", feature_layer=-2, connector="linear")
IMAGE_ID = 1
IN_TEXT = dict(prefix="causal", image_id=IMAGE_ID)
QUERIES = dict(depth=2, heads=2, mlp_dim=12, width=16, queries=3, cross_every=2)


@pytest.mark.parametrize("kind, total", [("mlp2x_gelu", 20_979_712), ("linear", 4_198_400)])
def test_parameter_counts_of_connectors(kind, total):
    """LLaVA-1.5's and LLaVA's, from CLIP's ViT-L to a language model of 7 billion parameters."""
    tokens = jax.ShapeDtypeStruct((1, 2, 1024), jnp.float32)
    assert writing_models.count(jax.eval_shape(Connector(kind, 4096).init, jax.random.key(0), tokens)) == total


@pytest.mark.full
def test_the_language_model_is_gpt2():
    params = writing_models.shapes_of(writing_models.make("prefix_lm-L/14"))
    assert writing_models.count(params["text"]) == 124_439_808
    assert params["connector"]["fc1"]["kernel"].shape == (1024, 768)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(ASKING, id="paligemma"),
        pytest.param(LLAVA, id="llava", marks=pytest.mark.full),
        pytest.param(IN_TEXT, id="image in text"),
        pytest.param(LLAVA | dict(feature_layer=None, qformer=QUERIES), id="blip2", marks=pytest.mark.full),
        pytest.param(IN_TEXT | dict(qformer=QUERIES), id="queries in text", marks=pytest.mark.full),
    ],
)
def prefix_lm(random_params, request):
    model = writing_models.make("tiny-prefix_lm", **request.param)
    params = random_params(writing_models.shapes_of(model))
    arguments = writing_models.inputs(4 if model.qformer is None else QUERIES["queries"])
    if model.qformer is not None:  # queries are all there
        arguments[1][:] = True
    # A question ends where the prompt does; the last text has none.
    arguments[3][[0, 1], writing_models.PROMPTS[:2] - 1] = writing_models.SEP
    if model.image_id is not None:  # in the last text the image stands first
        arguments[3][[0, 1], [1, 0]] = IMAGE_ID
    run = writing_models.exercise(model)
    return run, params, arguments, run(params, *arguments), model


def test_cached_decoding_is_teacher_forcing(prefix_lm):
    """Questions of different lengths are padded on the right, and give what they give alone."""
    writing_models.check_cached(*prefix_lm[3])


@pytest.mark.full
def test_gradients_reach_every_parameter(prefix_lm):
    """But for what comes after the block whose output is taken."""
    _, params, arguments, _, model = prefix_lm
    all_layers = model.feature_layer is None
    gradients = writing_models.check_gradients(model, params, arguments, [] if all_layers else ["image/norm/"])
    layers = gradients["image"]["transformer"]["layers"]["mlp"]["fc1"]["kernel"]
    assert [bool(np.abs(layer).max() > 0) for layer in layers] == [True, all_layers]


def test_only_what_is_real_matters(prefix_lm):
    writing_models.check_only_what_is_real(*prefix_lm[:4])


def test_a_question_sees_itself_and_no_answer(prefix_lm):
    """The second text: bos, a word, sep, an answer."""
    run, params, arguments, (before, _), model = prefix_lm
    *rest, text, mask = arguments

    def differs(column):
        changed = text.copy()
        changed[1, column] = 1
        out, _ = run(params, *rest, changed, mask)
        return list(np.abs(out["logits"][1] - before["logits"][1]).max(axis=1)[:4] > 1e-5)

    assert differs(1) == [model.prefix_text, True, True, True]
    assert differs(3) == [False, False, False, True]


@pytest.mark.full
@pytest.mark.parametrize("prefix, prefix_text", [("causal", False), ("full", False), ("full", True)])
def test_hugging_face_live(prefix, prefix_text):
    """CLIP's tokens of the last block but one, LLaVA's projector, GPT-2."""
    images, text, mask, _, _ = torch_writers.inputs()
    text[[0, 1], [3, 1]] = writing_models.SEP
    question_ends = np.array([4, 2, 0]) if prefix_text else np.zeros(3, int)
    sees = np.zeros((3, 11, 11), bool)
    for b, query, key in np.ndindex(sees.shape):
        together = max(query, key) < 4 + question_ends[b]  # both belong to the prefix
        sees[b, query, key] = key <= query or (prefix == "full" and together)
        sees[b, query, key] &= key < 4 or mask[b, key - 4]
    weights, expected = torch_writers.llava(sees, text)
    model = PrefixLM(**torch_writers.LLAVA, prefix=prefix, prefix_text=prefix_text)

    @jax.jit
    def run(params, images, text, mask):
        bound = model.bind({"params": params})
        return bound.caption_logits(bound.encode_image(images), text, mask)

    out = dict(logits=np.asarray(run(torch_writers.llava_params(weights), images, text, mask)))
    writing_models.check_golden(out, expected, mask)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"connector": "mlp"}, "model.connector='mlp' is not known"),
        ({"prefix": "ful"}, r"model.prefix='ful' is not known \(did you mean 'full'\?\)"),
        ({"prefix_text": True}, "set model.text.sep_id"),
        (ASKING | {"prefix": "causal"}, "set model.prefix='full'"),
        ({"feature_layer": -3}, "model.feature_layer=-3 is none of 2 layers; choose -2 to 1"),
        ({"text__cross_every": 1}, "model.text.cross_every is no setting"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        writing_models.shapes_of(writing_models.make("tiny-prefix_lm", **changes))


def test_an_image_takes_the_place_of_its_token(prefix_lm):
    """Each text's scores are those of one row of tokens in their order, made for it alone."""
    _, params, (images, _, _, text, mask), _, model = prefix_lm
    if model.image_id is None:
        pytest.skip("the image stands first")
    bound = model.bind({"params": jax.tree.map(jnp.asarray, params)})
    image, text, mask = bound.encode_image(jnp.asarray(images)), jnp.asarray(text), jnp.asarray(mask)
    logits = bound.caption_logits(image, text, mask)
    tokens, has_positions = bound.connect(image.tokens), model.qformer is not None  # as a text's tokens have
    embedded = bound.writer.token_embedding[text] if has_positions else bound.writer.embed(text)
    for row, first in enumerate((1, 0, None)):
        length = mask[row].sum()
        before, after = (0, 0) if first is None else (first, first + 1)
        parts = [embedded[row, :before], tokens[row], embedded[row, after:length]]
        spec, x = attention.AttentionSpec(causal=True), jnp.concatenate(parts)
        x = x + bound.writer.position_embedding[: len(x)] if has_positions else x
        alone = bound.writer.logits(bound.writer.run(x[None], spec).tokens)[0]
        skipped = tokens.shape[1] - (first is not None)
        columns = [t if first is not None and t < first else t + skipped for t in range(length)]
        np.testing.assert_allclose(logits[row, :length], alone[jnp.array(columns)], atol=1e-5)
