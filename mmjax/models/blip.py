"""BLIP: one BERT that reads a text, reads it with an image, and writes (arXiv:2201.12086)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.models import heads, image_text, language, sown_attention, submodules
from mmjax.models.fusion_model import FusionModel
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention
from mmjax.nn.layers import dense_float32

# Parameters of a layer that the writer has of its own: all others are those of the reader.
_OF_WRITER = ("attention", "norm1")


class BLIP(image_text.SlotsModel, image_text.ContrastiveModel, FusionModel, WritingModel, kw_only=True):
    """A vision transformer, and BERT in three passes over the same parameters.

    For contrast it reads the text alone, without its cross-attention; for matching the text looks at the image's
    tokens; for captions each word sees those before it and the image. The last pass has self-attention of its own, all
    else is shared, as in BLIP's pretraining. Without momentum distillation and queue: a global batch takes their place.

    Parameters: `image`, `text` (with `caption` also its head), with `caption` `text_writer` (the self-attention of its
    layers, stacked as theirs), `image_projection`, `text_projection`, and those of `ContrastiveModel` and
    `FusionModel`.

    What is not listed is as in `ContrastiveModel` and `FusionModel`.

    Attributes:
      image: settings of `VisionTransformer`; it needs its class token.
      text: settings of `TextStack`, and `eos_id`; every layer has cross-attention.
      caption: a head for captions.
      caption_id: token in place of a text's first one when it is a caption (BLIP's [DEC]); None to leave it.
      match_id: the same when it is matched (BLIP's [ENC]).
    """

    caption: bool = False
    caption_id: int | None = None
    match_id: int | None = None

    serves: ClassVar[tuple[str, ...]] = ("embeddings", "matching", "captions", "answers")
    attention_maps: ClassVar[tuple[str, ...]] = ("image", "similarity", "read")
    fuse_reads_words: ClassVar[bool] = True  # of encoded text only `valid` is used: the text is read again

    def setup(self):
        submodules.check_class_token(self.seen, self.seen_settings)
        for field in ("caption_id", "match_id"):
            submodules.check_first_id(field, getattr(self, field), self.text["vocab_size"])
        self.image_encoder = self.make_image_tower()
        head = "mlm" if self.caption else "none"
        self.reader = self.make_text_stack(causal=False, cross_every=1, cross_from=0, cross_mlp=False, head=head)
        if self.caption:
            self.writing = self.param("text_writer", self._init_of_writer)
        width = self.text["width"]
        dense = lambda size, name: dense_float32(self.embed_dim, std=size**-0.5, dtype=self.dtype, name=name)
        self.image_projection = dense(self.seen_settings["width"], f"{self.seen}_projection")
        self.text_projection = dense(width, "text_projection")
        super().setup()

    def run_text(self, text, text_mask, keys):
        return self._with_parameters(cross_every=0)(text, text_mask, keys=keys)

    def project_image(self, image):
        return self.image_projection(image.tokens[:, 0])

    def project_text(self, text):
        return self.text_projection(text.tokens[:, 0])

    def run_fusion(self, image, text, words, keys):
        """The text's tokens once they have looked at the image."""
        words = submodules.with_first(words, self.match_id)
        return self.reader(words, text.valid, submodules.as_memory(image), keys)

    def pool_fused(self, fused):
        return fused.tokens[:, 0]

    def run_writer(self, image, text, text_mask, keys):
        writer = self._writer
        words = submodules.with_first(text, self.caption_id)
        return writer.logits(writer(words, text_mask, submodules.as_memory(image), keys).tokens)

    def start(self, image, text, text_mask, slots):
        writer = self._writer
        spec = attention.AttentionSpec(causal=True, valid=text_mask)
        x = writer.embed(submodules.with_first(text, self.caption_id))
        return writer.start(x, spec, slots=slots, memory=submodules.as_memory(image))

    def step(self, carry: language.Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], language.Carry]:
        """Reads one more token of each example and scores the next one."""
        return self._writer.step(carry, tokens)

    def image_readout(self, sown: sown_attention.Sown) -> str:
        """The class token."""
        return "cls"

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """Cross-attention of the last layer."""
        del patches
        return sown_attention.last_cross_attention(sown, "text", "transformer")[:, :words]

    def __call__(self, images, text, text_mask=None):
        """Embeds and fuses both, with every head; used to initialise every parameter."""
        image = self.encode_image(images)
        fused = self.reader(text, text_mask, submodules.as_memory(image))  # which makes the reader's parameters
        written = (self.reader.logits(fused.tokens)[:, 0],) if self.caption else ()
        embeddings = self.image_projection(image.tokens[:, 0]), self.text_projection(fused.tokens[:, 0])
        return (*embeddings, *written, *self.head_logits(fused))

    @property
    def _writer(self) -> language.TextStack:
        """The reader, each of whose words sees those before it, with self-attention of its own."""
        heads.check_head("caption", self.caption)
        return self._with_parameters(causal=True, changed=self.writing)

    def _with_parameters(self, changed: Any = None, **changes: Any) -> language.TextStack:
        """The reader with other settings and its parameters, but for those of layers that are `changed`."""
        params = self.reader.variables["params"]
        if changed is not None:
            layers = {**params["transformer"]["layers"], **changed["layers"]}
            params = {**params, "transformer": {"layers": layers}}
        return self.reader.clone(parent=None, name=None, **changes).bind({"params": params})

    def _init_of_writer(self, key):
        """Fresh self-attention, as the reader draws its own."""
        reader = self.reader.clone(parent=None, name=None, cross_every=0)
        params = reader.init(key, jnp.zeros((1, 1), jnp.int32))["params"]["transformer"]["layers"]
        return jax.tree.map(jnp.asarray, {"layers": {name: params[name] for name in _OF_WRITER}})
