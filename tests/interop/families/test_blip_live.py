"""BLIP against transformers: its three passes over shared parameters, reader and writer apart, answers in words."""

import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from campaigns import family_models, hf_families
from campaigns.family_models import BERT, IMAGE, PREPARED
from mmjax.interop import export, param_translation
from mmjax.interop.families import family
from mmjax.models import make_model
from mmjax.parallel import partition

pytestmark = pytest.mark.full
SETTINGS = dict(kind="blip", embed_dim=12, image=IMAGE, text=BERT, match=True, caption=True, caption_id=1)


def test_the_three_passes_are_theirs(tmp_path):
    import torch
    import transformers

    settings = family.complete(SETTINGS)
    params = {path: 0.3 * x for path, x in family_models.blank_params(settings).items()}
    module = make_model.make_model(
        {name: x for name, x in settings.items() if name not in family_models.OF_TRAINING}, jnp.float32, {}
    ).bind({"params": partition.nested({path: jnp.asarray(x) for path, x in params.items()})})
    models = {}
    for name in ("BlipForConditionalGeneration", "BlipForImageTextRetrieval"):
        files = dict(settings=settings, preprocessing=PREPARED, params=params, architecture=name)
        export.write(tmp_path / name, "hf", **files)
        models[name], info = getattr(transformers, name).from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), info
    batch = family_models.inputs(np.random.default_rng(0), 16, 40, 9)
    ours = family_models.Inputs(*map(jnp.asarray, batch))
    image, text = module.encode_image(ours.images), module.encode_text(ours.text, ours.mask)
    got = dict(
        similarity=module.embed_image(image) @ module.embed_text(text).T,
        match=module.match_logits(module.fuse(image, text, ours.text)),
        logits=module.caption_logits(image, ours.text, ours.mask),
        ids=family_models.write_greedily(module, ours.images, ours.text[:, :1], jnp.ones((3, 1), bool), 5, 2, 0),
    )
    with torch.no_grad():
        want = hf_families.BLIP_RETRIEVAL.theirs(models["BlipForImageTextRetrieval"].eval(), batch)
        want |= hf_families.BLIP_CAPTIONING.theirs(models["BlipForConditionalGeneration"].eval(), batch)
    got["logits"] = np.where(batch.mask[..., None], got["logits"], 0)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **family_models.CLOSE, err_msg=name)
    shapes = param_translation.param_shapes(settings)
    shared = {path for path in shapes if path.startswith("text/transformer/") and "/attention/" not in path}
    assert len(shared) > 10 and not any(path.startswith("text_writer/layers/mlp") for path in shapes)


def test_reader_and_writer_apart_answer_questions(tmp_path):
    import torch
    import transformers

    settings = family.complete(SETTINGS)
    params = {path: 0.3 * x for path, x in family_models.blank_params(settings).items()}
    files = dict(settings=settings, preprocessing=PREPARED, params=params, architecture="BlipForQuestionAnswering")
    export.write(tmp_path, "hf", **files)
    model, info = transformers.BlipForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    opened = family_models.open_folder(tmp_path)
    of_writer = ("text/transformer/layers/attention/", "text/transformer/layers/norm1/")
    for path, x in opened.params.items():
        origin = path.replace("text/transformer/", "text_writer/") if path.startswith(of_writer) else path
        np.testing.assert_array_equal(x, params[origin.replace("question/", "text/")], err_msg=path)
    batch = family_models.inputs(np.random.default_rng(0), 16, 40, 9)
    got = hf_families.BLIP_ANSWERING.ours(opened, family_models.Inputs(*map(jnp.asarray, batch)))
    with torch.no_grad():
        want = hf_families.BLIP_ANSWERING.theirs(model.eval(), batch)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **family_models.CLOSE, err_msg=name)


def test_questions_are_answered_in_their_words(tmp_path):
    import torch
    import transformers

    words = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        "[MASK]",
        "what",
        "is",
        "in",
        "the",
        "picture",
        "a",
        "red",
        "blue",
        "circle",
        "square",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    settings = family.complete(family_models.SETTINGS["BlipForQuestionAnswering"])
    settings["text"] |= dict(vocab_size=len(words), context_length=32)
    settings["question"] |= dict(vocab_size=len(words), context_length=32)
    params = {path: 0.5 * x for path, x in family_models.blank_params(settings).items()}
    export.write(tmp_path, "hf", settings=settings, preprocessing=PREPARED, params=params)
    model = transformers.BlipForQuestionAnswering.from_pretrained(tmp_path).eval()
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8))
    questions = ["What is in the picture?", "is a circle red"]
    want = []
    for picture, question in zip(pictures, questions, strict=True):
        inputs = tokenizer(question, return_tensors="pt")
        pixels = torch.from_numpy((picture / 127.5 - 1).astype(np.float32).transpose(2, 0, 1)[None])
        with torch.no_grad():
            ids = model.generate(inputs.input_ids, pixels, max_new_tokens=19, do_sample=False, num_beams=1)
        want.append(tokenizer.decode(ids[0], skip_special_tokens=True).split())
    answers = mmjax.load(tmp_path).answer(pictures, questions)
    assert [answer.split() for answer in answers] == want
