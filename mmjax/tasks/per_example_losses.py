"""Objectives that belong to one example: what each takes from the model and from the batch.

They are sums and counts per example (`TokenLoss`), so they run in microbatches. Those between examples, contrast and
matching, are in `batch_losses`.
"""

from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.data.text.make_tokenizer import require_bos
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.objectives import captioning, classification, masked_modelling, separation
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks import separation_data
from mmjax.tasks.objective import BatchFeatures, Objective, Settings
from mmjax.utils.random_streams import ExampleStream


def caption(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """Each next token of the text, given the image; with `target_mask` in the batch, of what that marks."""
    text, mask = features.batch["text"], features.batch["text_mask"]
    model = features.model
    decoder_noise = features.noise(ExampleStream.DECODER)
    if hasattr(model, "decode"):  # CoCa's text pass serves contrast and captions
        logits = model.decode(features.image, features.text, decoder_noise)[:, :-1]
    else:
        logits = model.caption_logits(features.image, text[:, :-1], mask[:, :-1], decoder_noise)
    counted = features.batch.get("target_mask", mask)[:, 1:]
    return captioning.caption_loss(logits, text[:, 1:], counted, settings.loss.label_smoothing)


def masked_words(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """Masked tokens of the text, given its others and the image."""
    text, mask, model = features.batch["text"], features.batch["text_mask"], features.model
    tokenizer: Any = settings.tokenizer  # it has a mask token, see `_require_mask_token`
    words, hidden = masked_modelling.mask_tokens(
        text,
        mask,
        features.draws(ExampleStream.DRAW_MASKED_WORDS),
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        special_ids=tuple(tokenizer.special_ids),
        rate=settings.loss.mlm_rate,
    )
    encoded = model.encode_text(words, mask, features.noise(ExampleStream.MASKED_TEXT))
    fused = model.fuse(features.image, encoded, words, features.noise(ExampleStream.MASKED_TEXT_FUSION))
    return masked_modelling.mlm_loss(model.word_logits(fused), text, hidden)


def masked_patches(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """Pixels of masked patches, given the others and the text."""
    model, patches = features.model, (features.pixels.shape[1] // settings.patch_size) ** 2
    draws = features.draws(ExampleStream.DRAW_MASKED_PATCHES)
    hidden = masked_modelling.mask_patches(draws, patches, settings.loss.mim_ratio)
    image = model.encode_image(features.pixels, features.noise(ExampleStream.MASKED_IMAGE), hidden)
    fused = model.fuse(image, features.text, features.batch["text"], features.noise(ExampleStream.MASKED_IMAGE_FUSION))
    return masked_modelling.masked_patch_loss(model.patch_pixels(fused), features.pixels, hidden)


def answer(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """The answer to a question about the image, among a list; questions whose answers are not in it do not count."""
    del settings
    scores = features.batch["answer"]
    return classification.answer_loss(features.model.answer_logits(features.fused), scores, (scores > 0).any(axis=-1))


def classify(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """The class of an example of several modalities, of which training hides some."""
    present = features.batch["present"]
    if features.drawing is not None:
        draws = features.draws(ExampleStream.DRAW_HIDDEN_MODALITIES)
        present = classification.modality_dropout(present, settings.modality_dropout, draws)
    logits = features.model(features.arrays(), present, features.keys)
    return classification.classification_loss(logits, features.batch["label"], None, settings.loss.label_smoothing)


def separate(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """The mask of what belongs to the pictures, in the spectrogram of a mixture."""
    batch, loss = features.batch, settings.loss
    logits = features.model.mask_logits(features.pixels, batch["mixture"], features.keys)
    return separation.mask_loss(
        logits,
        batch["target"],
        batch["mixture"],
        kind=loss.mask_target,
        loss=loss.mask_loss,
        weighted=loss.mask_weighted,
    )


def _require_mask_token(config: RunConfig, tokenizer: Tokenizer | None) -> None:
    """Checks that words can be masked.

    Raises:
      UserError: the tokenizer has no mask token.
    """
    if tokenizer is None or tokenizer.mask_id is None:
        raise UserError(
            f"objectives.mlm={config.objectives.mlm} needs a tokenizer with a mask token, which"
            f" data.tokenizer={config.data.tokenizer!r} has not; 'words:...' and BERT's tokenizer.json do"
        )


CAPTION = Objective(
    caption,
    scope="example",
    needs=("captions",),
    head="caption",
    texts=("captions", "answers"),
    check=lambda config, tokenizer: tokenizer and require_bos(tokenizer, "objectives.caption"),
)
MASKED_WORDS = Objective(
    masked_words, scope="example", needs=("masked_words",), head="mlm", draws=True, check=_require_mask_token
)
MASKED_PATCHES = Objective(masked_patches, scope="example", needs=("masked_patches",), head="mim", draws=True)
ANSWER = Objective(answer, scope="example", needs=("answers",), head="answers", texts=("questions",), alone=True)
CLASSIFY = Objective(classify, scope="example", needs=("classes",))
SEPARATE = Objective(separate, scope="example", needs=("separation",), check_config=separation_data.check_model)
