"""big_vision's two-tower models (SigLIP, LiT with a pooled image tower) in .npz files, which carry no config."""

from collections.abc import Mapping

from mmjax.errors import UserError
from mmjax.interop import model_settings, published_towers
from mmjax.interop.tensor_files import Tensors, unscanned

_TEXT = dict(causal=False, pool="last")  # its text tower's defaults
ATTENTION = "MultiHeadDotProductAttention_0"


def normalize_names(tensors: Tensors) -> Tensors:
    """The parameters alone (a checkpoint may hold an optimizer's state), layers by number."""
    if any(name.startswith("params/") for name in tensors):
        tensors = tensors.renamed(lambda name: name.removeprefix("params/") if name.startswith("params/") else None)
    return unscanned(tensors)


def from_shapes(tensors: Tensors) -> model_settings.Settings:
    """A model's settings; those that neither shapes nor published models have are `published_towers.MissingSetting`.

    Heads are an axis there, and the activation and epsilon are Flax's: tanh GELU and 1e-6.
    """
    settings = model_settings.siglip_template()
    for name, encoder, tower in (
        ("img", "Transformer", settings["image"]),
        ("txt", "Encoder_0", settings["text"]),
    ):
        block = f"{name}/{encoder}/encoderblock_"
        width, heads, _ = model_settings.param_shape(tensors, f"{block}0/{ATTENTION}/query/kernel", 3)
        tower |= dict(width=width, heads=heads, depth=model_settings.count_layers(tensors, block + r"(\d+)/"))
        tower["mlp_dim"] = model_settings.param_shape(tensors, f"{block}0/MlpBlock_0/Dense_0/kernel", 2)[1]
    patch = model_settings.param_shape(tensors, "img/embedding/kernel", 4)[0]
    positions = model_settings.param_shape(tensors, "img/pos_embedding", 3)[1]
    side = model_settings.grid_side(tensors, "img/pos_embedding", positions)
    settings["image"] |= dict(patch_size=patch, image_size=published_towers.image_size("siglip", patch, side))
    vocab_size = model_settings.param_shape(tensors, "txt/Embed_0/embedding", 2)[0]
    settings["text"] |= dict(
        vocab_size=vocab_size, context_length=model_settings.param_shape(tensors, "txt/pos_embedding", 3)[1]
    )
    vocabulary = published_towers.vocabulary("siglip", vocab_size) or published_towers.missing_text_settings(
        "siglip", vocab_size
    )
    settings["text"] |= {field: vocabulary[field] for field in ("causal", "pool")}
    settings["embed_dim"] = model_settings.param_shape(tensors, "txt/head/kernel", 2)[1]
    settings["image"]["projection"] = "bias" if "img/head/kernel" in tensors else "none"
    settings["logit_bias_init"] = -10.0 if "b" in tensors else None
    return settings


def check_roundtrip(settings: model_settings.Settings, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that a file of these shapes, which is all that it holds, would be read as this very model.

    Raises:
      UserError: big_vision has no such model; the first field in which it would be another is named.
    """

    def unread(name):
        raise AssertionError(f"{name} was read for its shape")

    read = from_shapes(Tensors("DST", shapes, unread))
    read["text"] |= _TEXT
    for tower in model_settings.TOWERS:
        for field, value in settings[tower].items():
            theirs = read[tower].get(field, value)
            # What the file leaves open a person gives when it is read.
            if (
                model_settings.affects_output(field)
                and not isinstance(theirs, published_towers.MissingSetting)
                and theirs != value
            ):
                raise UserError(
                    f"model.{tower}.{field}={value!r}: big_vision's two towers have {theirs!r};"
                    " choose --to=openclip or --to=hf"
                )
