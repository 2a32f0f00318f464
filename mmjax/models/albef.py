"""ALBEF: contrast of two towers, then words that look at the image (arXiv:2107.07651)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float

from mmjax.errors import UserError
from mmjax.models import heads, image_text, sown_attention, submodules
from mmjax.models.encoders import Encoded, build
from mmjax.models.fusion_model import FusionModel
from mmjax.nn import attention, transformer
from mmjax.nn.layers import dense_float32
from mmjax.nn.norms import layer_norm


class ALBEF(image_text.SlotsModel, image_text.ContrastiveModel, FusionModel, kw_only=True):
    """A vision transformer, BERT's first layers for the text alone, and its others, which look at the image's tokens.

    The two parts of BERT are two stacks, so that texts and images are encoded once however they are paired. Without
    momentum distillation: a global batch takes the place of its queue of negatives.

    Parameters: `image`, `text` (with `mlm` also its head), `fusion` (with norm `pre` also `fusion_norm`),
    `image_projection`, `text_projection`, and those of `ContrastiveModel` and `FusionModel`.

    What is not listed is as in `ContrastiveModel` and `FusionModel`.

    Attributes:
      image: settings of `VisionTransformer`; it needs its class token.
      text: settings of `TextStack`, and `eos_id`; its depth is that of the layers without an image.
      fusion: settings of `Transformer` for the layers with one; they are as wide as the text's.
      mlm: a head for masked words.
    """

    fusion: Mapping[str, Any]
    mlm: bool = False

    serves: ClassVar[tuple[str, ...]] = ("embeddings", "matching", "masked_words", "answers")
    attention_maps: ClassVar[tuple[str, ...]] = ("image", "similarity", "read")

    def setup(self):
        submodules.check_class_token(self.seen, self.seen_settings)
        width = self.text["width"]
        if width % self.fusion["heads"]:
            raise UserError(
                f"model.fusion.heads={self.fusion['heads']} does not divide model.text.width={width}; choose one that"
                " does"
            )
        self.image_encoder = self.make_image_tower()
        self.text_encoder = self.make_text_stack(causal=False, cross_every=0, head="mlm" if self.mlm else "none")
        self.fuser = build(
            transformer.Transformer,
            "fusion",
            self.fusion,
            cross_every=1,
            cross_from=0,
            dtype=self.dtype,
            attention_impl=self.text_attention,
        )
        if self.fusion.get("norm", "pre") == "pre":
            self.fusion_norm = layer_norm(self.fusion.get("norm_eps", 1e-5), self.dtype)

        dense = lambda size, name: dense_float32(self.embed_dim, std=size**-0.5, dtype=self.dtype, name=name)
        self.image_projection = dense(self.seen_settings["width"], f"{self.seen}_projection")
        self.text_projection = dense(width, "text_projection")
        super().setup()

    def run_text(self, text, text_mask, keys):
        return self.text_encoder(text, text_mask, keys=keys)

    def project_image(self, image):
        return self.image_projection(image.tokens[:, 0])

    def project_text(self, text):
        return self.text_projection(text.tokens[:, 0])

    def run_fusion(self, image, text, words, keys):
        """The text's tokens once they have looked at the image."""
        del words
        spec = attention.AttentionSpec(valid=text.valid)
        x = submodules.without_invalid(text).tokens
        x = self.fuser(x, spec, keys, memory=submodules.as_memory(image)).tokens
        return Encoded(self.fusion_norm(x) if self.fusion.get("norm", "pre") == "pre" else x, text.valid)

    def pool_fused(self, fused):
        return fused.tokens[:, 0]

    def word_logits(self, fused: Encoded) -> Float[Array, "B L V"]:
        """Scores of the words at every place, masked or not."""
        heads.check_head("mlm", self.mlm)
        return self.text_encoder.logits(fused.tokens)

    def image_readout(self, sown: sown_attention.Sown) -> str:
        """The class token."""
        return "cls"

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """Cross-attention of the last layer."""
        del patches
        return sown_attention.last_cross_attention(sown, "fusion")[:, :words]

    def __call__(self, images, text, text_mask=None):
        """Embeds and fuses both, with every head; used to initialise every parameter."""
        image, encoded = self.encode_image(images), self.encode_text(text, text_mask)
        fused = self.fuse(image, encoded, text)
        words = (self.word_logits(fused)[:, 0],) if self.mlm else ()
        return (self.embed_image(image), self.embed_text(encoded), *words, *self.head_logits(fused))
