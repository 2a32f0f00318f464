"""Objectives that belong to one example: what each takes from the model and from the batch.

They are sums and counts per example (`TokenLoss`), so they run in microbatches. Those between examples, contrast and
matching, are in `task` and `matching`.
"""

from collections.abc import Callable
from typing import Any

from mmjax.nn import dropout
from mmjax.objectives import captioning, classification, masked_modelling
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks.batch_features import Views
from mmjax.utils.random_streams import ExampleStream


def caption(views: Views, settings: Any) -> TokenLoss:
    """Each next token of the text, given the image; with `target_mask` in the batch, of what that marks."""
    text, mask = views.batch["text"], views.batch["text_mask"]
    model = views.model
    decoder_noise = views.noise(ExampleStream.DECODER)
    if hasattr(model, "decode"):  # CoCa's text pass serves contrast and captions
        logits = model.decode(views.image, views.text, decoder_noise)[:, :-1]
    else:
        logits = model.caption_logits(views.image, text[:, :-1], mask[:, :-1], decoder_noise)
    counted = views.batch.get("target_mask", mask)[:, 1:]
    return captioning.caption_loss(logits, text[:, 1:], counted, settings.loss.label_smoothing)


def masked_words(views: Views, settings: Any) -> TokenLoss:
    """Masked tokens of the text, given its others and the image."""
    text, mask, model = views.batch["text"], views.batch["text_mask"], views.model
    words, hidden = masked_modelling.mask_tokens(
        text,
        mask,
        views.draws(ExampleStream.DRAW_MASKED_WORDS),
        vocab_size=settings.vocab_size,
        mask_id=settings.mask_id,
        special_ids=settings.special_ids,
        rate=settings.loss.mlm_rate,
    )
    encoded = model.encode_text(words, mask, views.noise(ExampleStream.MASKED_TEXT))
    fused = model.fuse(views.image, encoded, words, views.noise(ExampleStream.MASKED_TEXT_FUSION))
    return masked_modelling.mlm_loss(model.word_logits(fused), text, hidden)


def masked_patches(views: Views, settings: Any) -> TokenLoss:
    """Pixels of masked patches, given the others and the text."""
    model, patches = views.model, (views.pixels.shape[1] // settings.patch_size) ** 2
    draws = views.draws(ExampleStream.DRAW_MASKED_PATCHES)
    hidden = masked_modelling.mask_patches(draws, patches, settings.loss.mim_ratio)
    image = model.encode_image(views.pixels, views.noise(ExampleStream.MASKED_IMAGE), hidden)
    fused = model.fuse(image, views.text, views.batch["text"], views.noise(ExampleStream.MASKED_IMAGE_FUSION))
    return masked_modelling.masked_patch_loss(model.patch_pixels(fused), views.pixels, hidden)


def answer(views: Views, settings: Any) -> TokenLoss:
    """The answer to a question about the image, among a list; questions whose answers are not in it do not count."""
    del settings
    scores = views.batch["answer"]
    return classification.answer_loss(views.model.answer_logits(views.fused), scores, (scores > 0).any(axis=-1))


def classify(views: Views, settings: Any) -> TokenLoss:
    """The class of an example of several modalities, of which training hides some."""
    present = views.batch["present"]
    if views.drawing is not None:
        draws = views.draws(ExampleStream.DRAW_HIDDEN_MODALITIES)
        present = dropout.modality_dropout(present, settings.modality_dropout, draws)
    logits = views.model(modalities(views), present, views.keys)
    return classification.classification_loss(logits, views.batch["label"], None, settings.loss.label_smoothing)


def modalities(views: Views) -> dict[str, Any]:
    """The modalities of a batch by name; the record's image is normalised."""
    arrays = {
        name.removeprefix("modality_"): value for name, value in views.batch.items() if name.startswith("modality_")
    }
    return arrays | ({"image": views.pixels} if "image" in views.batch else {})


PER_EXAMPLE: dict[str, Callable[[Views, Any], TokenLoss]] = {
    "caption": caption,
    "mlm": masked_words,
    "mim": masked_patches,
    "vqa": answer,
    "classify": classify,
}
# What draws at random even where no layer does.
DRAWING = ("mlm", "mim", "itm")
