"""big_vision's two-tower models (SigLIP, LiT with a pooled image tower) in .npz files, which carry no config."""

from collections.abc import Mapping

from mmjax.errors import UserError
from mmjax.interop import known
from mmjax.interop import settings as lib
from mmjax.interop.tensors import Tensors, unscanned

_TEXT = dict(causal=False, pool="last")  # its text tower's defaults
ATTENTION = "MultiHeadDotProductAttention_0"


def normalised(tensors: Tensors) -> Tensors:
    """The parameters alone (a checkpoint may hold an optimizer's state), layers by number."""
    if any(name.startswith("params/") for name in tensors):
        tensors = tensors.renamed(lambda name: name.removeprefix("params/") if name.startswith("params/") else None)
    return unscanned(tensors)


def from_shapes(tensors: Tensors) -> lib.Settings:
    """A model's settings; those that neither shapes nor published models tell are `known.Open`.

    Heads are an axis there, and the activation and epsilon are Flax's: tanh GELU and 1e-6.
    """
    settings = lib.siglip()
    for name, encoder, tower in (
        ("img", "Transformer", settings["image"]),
        ("txt", "Encoder_0", settings["text"]),
    ):
        block = f"{name}/{encoder}/encoderblock_"
        width, heads, _ = lib.shape(tensors, f"{block}0/{ATTENTION}/query/kernel", 3)
        tower |= dict(width=width, heads=heads, depth=lib.depth(tensors, block + r"(\d+)/"))
        tower["mlp_dim"] = lib.shape(tensors, f"{block}0/MlpBlock_0/Dense_0/kernel", 2)[1]
    patch = lib.shape(tensors, "img/embedding/kernel", 4)[0]
    positions = lib.shape(tensors, "img/pos_embedding", 3)[1]
    side = lib.square(tensors, "img/pos_embedding", positions)
    settings["image"] |= dict(patch_size=patch, image_size=known.image_size("siglip", patch, side))
    vocab_size = lib.shape(tensors, "txt/Embed_0/embedding", 2)[0]
    settings["text"] |= dict(vocab_size=vocab_size, context_length=lib.shape(tensors, "txt/pos_embedding", 3)[1])
    vocabulary = known.vocabulary("siglip", vocab_size) or known.open_text("siglip", vocab_size)
    settings["text"] |= {field: vocabulary[field] for field in ("causal", "pool")}
    settings["embed_dim"] = lib.shape(tensors, "txt/head/kernel", 2)[1]
    settings["image"]["projection"] = "bias" if "img/head/kernel" in tensors else "none"
    settings["logit_bias_init"] = -10.0 if "b" in tensors else None
    return settings


def check_same(settings: lib.Settings, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that a file of these shapes, which is all that it tells, would be read as this very model.

    Raises:
      UserError: big_vision has no such model; the first field in which it would be another is named.
    """

    def unread(name):
        raise AssertionError(f"{name} was read for its shape")

    read = from_shapes(Tensors("DST", shapes, unread))
    read["text"] |= _TEXT
    for tower in lib.TOWERS:
        for field, value in settings[tower].items():
            theirs = read[tower].get(field, value)
            # What the file leaves open a person gives when it is read.
            if lib.is_function(field) and not isinstance(theirs, known.Open) and theirs != value:
                raise UserError(
                    f"model.{tower}.{field}={value!r}: big_vision's two towers have {theirs!r};"
                    " choose --to=openclip or --to=hf"
                )
