"""Families of transformers' models, drawn by a seed: read, run and written back by mmjax, loaded strictly there.

python -m campaigns.hf_families --count=120 --seed=0

Needs the extra `full`. Cases of all families take turns: embeddings, logits, ids written greedily.
"""

import collections
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import mmjax
from campaigns.command import make_parser, show
from campaigns.family_models import (
    BATCH,
    CLOSE,
    Inputs,
    Opened,
    inputs,
    open_folder,
    padded,
    randomised,
    write_greedily,
)
from mmjax.inference import convert
from mmjax.interop import huggingface

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

Outputs = dict[str, np.ndarray]


class Case(NamedTuple):
    """A family, as tests make and run it.

    Attributes:
      architecture: of transformers.
      make: random numbers -> (the model there, what `inputs` takes).
      theirs: (the model there, inputs) -> outputs by name.
      ours: (the same model here, inputs) -> the same.
      can: the methods that `mmjax.load` gives it; None where it is not for that.
    """

    architecture: str
    make: Callable[[np.random.Generator], tuple[Any, dict[str, Any]]]
    theirs: Callable[[Any, Inputs], Outputs]
    ours: Callable[[Opened, Inputs], Outputs]
    can: tuple[str, ...] | None


def check(case: Case, seed: int, folder) -> None:
    """A random model is read, computes the same, is written back, loaded strictly there, and read once more."""
    import torch
    import transformers

    rng = np.random.default_rng(seed)
    model, shape = case.make(rng)
    randomised(model, seed)
    model.save_pretrained(folder / "theirs")
    opened = open_folder(folder / "theirs")
    if case.can is not None:
        assert mmjax.load(folder / "theirs").can == case.can
    batch = inputs(rng, **shape)
    with torch.no_grad():
        want = case.theirs(model, batch)
    got = case.ours(opened, Inputs(*map(jnp.asarray, batch)))
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **CLOSE, err_msg=name)

    convert.convert(folder / "theirs", folder / "back", to="hf")
    cls = getattr(transformers, case.architecture)
    back, info = cls.from_pretrained(folder / "back", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        again = case.theirs(back.eval(), batch)
    for name, value in want.items():
        np.testing.assert_allclose(again[name], value, **CLOSE, err_msg=name)
    reopened = open_folder(folder / "back")
    for path, leaf in opened.params.items():
        np.testing.assert_array_equal(reopened.params[path], leaf, err_msg=path)
    assert reopened.config.model == opened.config.model


def layers(rng) -> dict[str, Any]:
    """Sizes and functions of layers, as BERT's and ViT's configs call them."""
    heads = int(rng.choice([1, 2, 3]))
    return dict(
        hidden_size=heads * int(rng.choice([4, 6])),
        num_attention_heads=heads,
        num_hidden_layers=int(rng.integers(1, 4)),
        intermediate_size=int(rng.integers(5, 30)),
        hidden_act=str(rng.choice(list(huggingface.ACTIVATIONS))),
        layer_norm_eps=float(rng.choice([1e-12, 1e-6, 1e-3])),
    )


# -- ViT-GPT2 ----------------------------------------------------------------------------------------------------------


def _vit_gpt2(rng):
    import transformers

    patch = int(rng.choice([3, 4]))
    vision = layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)
    vocabulary, length, width = int(rng.integers(8, 50)), int(rng.integers(6, 12)), vision["hidden_size"]
    eos = int(rng.integers(0, vocabulary))
    decoder = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=int(rng.integers(1, 4)),
        n_head=vision["num_attention_heads"],
        n_inner=[None, int(rng.integers(5, 30))][int(rng.integers(2))],
        activation_function=str(rng.choice(["gelu_new", "gelu", "relu"])),
        layer_norm_epsilon=float(rng.choice([1e-5, 1e-3])),
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vision), decoder
    )
    config.decoder_start_token_id = int(rng.choice([eos, rng.integers(0, vocabulary)]))
    config.pad_token_id = config.eos_token_id = eos
    model = transformers.VisionEncoderDecoderModel(config)
    return model, dict(side=vision["image_size"], vocabulary=vocabulary, length=length)


def _vit_gpt2_theirs(model, batch):
    images, text, mask = batch.tensors()
    config = model.config
    text[:, 0] = config.decoder_start_token_id
    logits = model(pixel_values=images, decoder_input_ids=text, decoder_attention_mask=mask).logits
    written = model.generate(images, max_new_tokens=5, do_sample=False, num_beams=1)[:, 1:]
    ids = padded(written.numpy(), 5, config.eos_token_id, config.eos_token_id)
    return dict(logits=np.where(batch.mask[..., None], logits.numpy(), 0), ids=ids)


def _captions(opened, batch, pad=None):
    """Logits and greedily written ids of a captioner."""
    module, model = opened.module, opened.config.model
    eos = model.text.eos_id
    text = batch.text.at[:, 0].set(eos if model.caption_id is None else model.caption_id)
    image = module.encode_image(batch.images)
    logits = np.asarray(module.caption_logits(image, text, batch.mask))
    pad, mask = eos if pad is None else pad, jnp.ones((BATCH, 1), bool)
    ids = write_greedily(module, batch.images, text[:, :1], mask, 5, eos, pad)
    return dict(logits=np.where(batch.mask[..., None], logits, 0), ids=ids)


VIT_GPT2 = Case("VisionEncoderDecoderModel", _vit_gpt2, _vit_gpt2_theirs, _captions, ("caption",))


# -- BLIP --------------------------------------------------------------------------------------------------------------


def _blip_config(rng, **more):
    import transformers

    patch, length, vocabulary = int(rng.choice([3, 4])), int(rng.integers(6, 12)), int(rng.integers(8, 50))
    vision = layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)
    ids = dict(bos_token_id=1, sep_token_id=2, eos_token_id=2, pad_token_id=0)
    text = layers(rng) | dict(vocab_size=vocabulary, max_position_embeddings=length) | ids
    config = transformers.BlipConfig(
        vision_config=vision, text_config=text | dict(encoder_hidden_size=vision["hidden_size"]), **more
    )
    return config, dict(side=vision["image_size"], vocabulary=vocabulary, length=length)


def _blip_captioning(rng):
    import transformers

    config, shape = _blip_config(rng)
    return transformers.BlipForConditionalGeneration(config), shape


def _blip_captioning_theirs(model, batch):
    images, text, mask = batch.tensors()
    text[:, 0] = 1
    logits = model(pixel_values=images, input_ids=text, attention_mask=mask).logits
    written = model.generate(images, max_new_tokens=5, do_sample=False, num_beams=1)[:, 1:]
    return dict(logits=np.where(batch.mask[..., None], logits.numpy(), 0), ids=padded(written.numpy(), 5, 2, 0))


BLIP_CAPTIONING = Case(
    "BlipForConditionalGeneration",
    _blip_captioning,
    _blip_captioning_theirs,
    lambda opened, batch: _captions(opened, batch, pad=0),
    ("caption",),
)


def _blip_answering(rng):
    import transformers

    config, shape = _blip_config(rng)
    config.text_config.hidden_size = config.text_config.encoder_hidden_size = config.vision_config.hidden_size
    config.text_config.num_attention_heads = config.vision_config.num_attention_heads
    return transformers.BlipForQuestionAnswering(config), shape


_ANSWER_TOKENS = 3


def _question_and_answer(batch):
    """Questions that end with the separator and are padded on the right, which tokens are real, answers at random."""
    rng, rows, length = np.random.default_rng(int(batch.text.sum())), BATCH, batch.text.shape[1] - _ANSWER_TOKENS
    real = np.minimum(batch.mask.sum(axis=1), length - np.arange(rows) % 2)
    column = np.arange(length)
    question = np.where(column < real[:, None], batch.text[:, :length], 0)
    question[np.arange(rows), real - 1] = 2
    answer = rng.choice(batch.text[batch.text > 2], (rows, _ANSWER_TOKENS))
    return question, column < real[:, None], answer


def _blip_answering_theirs(model, batch):
    import torch

    images, _, _ = batch.tensors()
    question, mask, answer = _question_and_answer(batch)
    first = np.full((len(answer), 1), 1)
    tokens = lambda x: torch.from_numpy(x.astype(np.int64))
    ids, real, decoder_ids = tokens(question), tokens(mask), tokens(np.concatenate([first, answer], axis=1))
    seen = model.vision_model(images).last_hidden_state
    read = model.text_encoder(input_ids=ids, attention_mask=real, encoder_hidden_states=seen).last_hidden_state
    # The decoder there looks at a question's padding, too, whatever the mask says: here, one question after the other.
    logits, written = [], []
    for i, count in enumerate(mask.sum(axis=1)):
        one = slice(i, i + 1)
        decoded = model.text_decoder(input_ids=decoder_ids[one], encoder_hidden_states=read[one, :count])
        logits.append(decoded.logits.numpy())
        row = model.generate(ids[one, :count], images[one], max_new_tokens=5, do_sample=False, num_beams=1)
        written.append(padded(row[:, 1:].numpy(), 5, 2, 0))
    return dict(logits=np.concatenate(logits), ids=np.concatenate(written))


def _blip_answering_ours(opened, batch):
    module = opened.module
    question, mask, answer = _question_and_answer(Inputs(*map(np.asarray, batch)))
    rows, length = question.shape
    # A row is the question and its answer, so that each begins where its own question ends.
    text, real = (np.concatenate([x, np.zeros((rows, _ANSWER_TOKENS), x.dtype)], 1) for x in (question, mask))
    columns = mask.sum(axis=1)[:, None] + np.arange(-1, _ANSWER_TOKENS)
    np.put_along_axis(text, columns[:, 1:], answer, axis=1)
    np.put_along_axis(real, columns[:, 1:], True, axis=1)
    logits = module.caption_logits(module.encode_image(batch.images), jnp.asarray(text), jnp.asarray(real))
    logits = np.take_along_axis(np.asarray(logits), columns[..., None], axis=1)
    ids = write_greedily(module, batch.images, jnp.asarray(question), jnp.asarray(mask), 5, 2, 0)
    return dict(logits=logits, ids=ids)


BLIP_ANSWERING = Case(
    "BlipForQuestionAnswering", _blip_answering, _blip_answering_theirs, _blip_answering_ours, ("answer",)
)


def _blip_retrieval(rng):
    import transformers

    config, shape = _blip_config(rng, image_text_hidden_size=int(rng.integers(4, 12)))
    return transformers.BlipForImageTextRetrieval(config), shape


def _blip_retrieval_theirs(model, batch):
    images, text, mask = batch.tensors()
    contrast = model(pixel_values=images, input_ids=text, attention_mask=mask, use_itm_head=False)
    match = model(pixel_values=images, input_ids=text, attention_mask=mask, use_itm_head=True)
    return dict(similarity=contrast.itm_score.numpy(), match=match.itm_score.numpy())


def _blip_retrieval_ours(opened, batch):
    module, (image, text) = opened.module, _encoded(opened.module, batch)
    similarity = np.asarray(module.embed_image(image) @ module.embed_text(text).T)
    return dict(similarity=similarity, match=np.asarray(module.match_logits(module.fuse(image, text, batch.text))))


BLIP_RETRIEVAL = Case(
    "BlipForImageTextRetrieval",
    _blip_retrieval,
    _blip_retrieval_theirs,
    _blip_retrieval_ours,
    ("encode_image", "encode_text", "zero_shot", "match"),
)

# -- BLIP-2 ------------------------------------------------------------------------------------------------------------


def _blip2(rng):
    import transformers

    patch, length, vocabulary = int(rng.choice([3, 4])), int(rng.integers(6, 12)), int(rng.integers(8, 50))
    vision = layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)
    every = int(rng.choice([1, 2, 3]))
    text = layers(rng) | dict(vocab_size=vocabulary, max_position_embeddings=length)
    text |= dict(num_hidden_layers=every * int(rng.integers(1, 3)), cross_attention_frequency=every)
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config=text | dict(encoder_hidden_size=vision["hidden_size"], use_qformer_text_input=True),
        num_query_tokens=int(rng.integers(2, 6)),
        image_text_hidden_size=int(rng.integers(4, 12)),
    )
    shape = dict(side=vision["image_size"], vocabulary=vocabulary, length=length)
    return transformers.Blip2ForImageTextRetrieval(config), shape


def _blip2_theirs(model, batch):
    images, text, mask = batch.tensors()
    flags = dict(pixel_values=images, input_ids=text, attention_mask=mask)
    contrast, match = model(**flags), model(**flags, use_image_text_matching_head=True)
    embeddings = dict(image=contrast.image_embeds.numpy(), text=contrast.text_embeds.numpy())
    return embeddings | dict(match=match.logits_per_image.numpy())


def _blip2_ours(opened, batch):
    module, (image, text) = opened.module, _encoded(opened.module, batch)
    outputs = dict(image=module.embed_image(image), text=module.embed_text(text))
    outputs["match"] = module.match_logits(module.fuse(image, text, batch.text))
    return {name: np.asarray(x) for name, x in outputs.items()}


BLIP2_RETRIEVAL = Case("Blip2ForImageTextRetrieval", _blip2, _blip2_theirs, _blip2_ours, ("match",))

# -- ViLT --------------------------------------------------------------------------------------------------------------


def _vilt(architecture):
    def make(rng):
        import transformers

        patch, length, vocabulary = int(rng.choice([3, 4])), int(rng.integers(6, 12)), int(rng.integers(8, 50))
        side = patch * int(rng.integers(1, 4))
        config = transformers.ViltConfig(
            **layers(rng),
            image_size=side,
            patch_size=patch,
            vocab_size=vocabulary,
            max_position_embeddings=length,
            num_labels=int(rng.integers(2, 9)),
            type_vocab_size=int(rng.integers(1, 4)),
        )
        return getattr(transformers, architecture)(config), dict(side=side, vocabulary=vocabulary, length=length)

    return make


def _vilt_theirs(model, batch):
    images, text, mask = batch.tensors()
    out = model(input_ids=text, attention_mask=mask, pixel_values=images)
    if hasattr(out, "pooler_output"):
        return dict(tokens=_real(out.last_hidden_state.numpy(), batch), pooled=out.pooler_output.numpy())
    logits = out.logits.numpy()
    return dict(logits=_real(logits, batch) if logits.ndim == 3 else logits)


def _real(tokens, batch):
    """Tokens of the texts alone, zeros for padding."""
    return np.where(np.asarray(batch.mask)[..., None], tokens[:, : batch.mask.shape[1]], 0)


def _encoded(module, batch):
    return module.encode_image(batch.images), module.encode_text(batch.text, batch.mask)


def _fused(opened, batch):
    return opened.module.fuse(*_encoded(opened.module, batch), batch.text)


def _vilt_ours(opened, batch):
    module, model, fused = opened.module, opened.config.model, _fused(opened, batch)
    if model.answers:
        return dict(logits=np.asarray(module.answer_logits(fused)))
    if model.match:
        logits = np.asarray(module.match_logits(fused))
        return dict(logits=logits[:, 1:] - logits[:, :1])
    if model.mlm:
        return dict(logits=_real(np.asarray(module.word_logits(fused)), batch))
    return dict(tokens=_real(np.asarray(fused.tokens), batch), pooled=np.asarray(module.pool(fused.tokens)))


def _vilt_case(architecture, can):
    return Case(architecture, _vilt(architecture), _vilt_theirs, _vilt_ours, can)


CASES = {
    "vit_gpt2": VIT_GPT2,
    "blip_captioning": BLIP_CAPTIONING,
    "blip_answering": BLIP_ANSWERING,
    "blip_retrieval": BLIP_RETRIEVAL,
    "blip2_retrieval": BLIP2_RETRIEVAL,
    "vilt_answers": _vilt_case("ViltForQuestionAnswering", ("answer",)),
    "vilt_matching": _vilt_case("ViltForImageAndTextRetrieval", ("match",)),
    "vilt_masked_words": _vilt_case("ViltForMaskedLM", None),
    "vilt_bare": _vilt_case("ViltModel", None),
}


def main() -> int:
    from campaigns.hf_language_models import CASES as LANGUAGE_MODELS  # which are made by what is here

    options = make_parser(__doc__, 120).parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    cases = CASES | LANGUAGE_MODELS
    names = list(cases)
    for number in range(options.count):
        name, seed = names[number % len(names)], options.seed + number
        with tempfile.TemporaryDirectory(prefix="mmjax-families-") as folder:
            try:
                check(cases[name], seed, Path(folder))
                outcomes[f"{name}: equal"] += 1
            except AssertionError as error:
                outcomes[f"{name} of seed {seed}: {str(error).strip().splitlines()[0]}"] += 1
    return show(outcomes, lambda outcome: outcome.endswith(": equal"))


if __name__ == "__main__":
    sys.exit(main())
