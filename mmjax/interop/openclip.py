"""OpenAI's CLIP and OpenCLIP: their config files, both ways; the towers are in `openclip_image` and `openclip_text`.

OpenAI's weights and OpenCLIP's have the same names.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import model_settings, openclip_coca, openclip_image, openclip_text
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.param_names import openclip as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors


@dataclasses.dataclass(frozen=True)
class Naming:
    """Which of OpenCLIP's names a model has.

    Attributes:
      image: kind of its image tower, a key of `openclip_image.TOWERS`.
      custom_text: the text tower's names start with `text.` (`CustomTextCLIP`).
      projection_bias: the text projection is a linear layer with a bias, not a bare matrix.
      hf_text: the text tower is one of Hugging Face's.
    """

    image: str
    custom_text: bool
    projection_bias: bool
    hf_text: bool = False

    @property
    def image_tower(self) -> openclip_image.ImageTower:
        """The kind of its image tower."""
        return openclip_image.TOWERS[self.image]

    def table(self, image: Mapping[str, Any], tensors: Tensors | None = None) -> list[Row]:
        """The table with these names; `image` are the image tower's settings, `tensors` the file that is read."""
        rows = self.image_tower.rows
        text = names.HF_TEXT
        if not self.hf_text:
            text = names.text(custom_text=self.custom_text, projection_bias=self.projection_bias)
        return [*(rows if isinstance(rows, list) else rows(image, tensors)), *text, *names.LOGITS]


def naming_of_tensors(tensors: Tensors) -> Naming:
    """The naming of a file."""
    hf_text = "text.transformer.embeddings.word_embeddings.weight" in tensors
    custom_text = hf_text or "text.token_embedding.weight" in tensors
    projection = ("text." if custom_text else "") + "text_projection.weight"
    return Naming(openclip_image.of_tensors(tensors), custom_text, projection in tensors, hf_text)


def naming_of_settings(settings: Mapping[str, Any]) -> Naming:
    """The naming that a model is written with: `CLIP`, or `CustomTextCLIP` with a tower of another library's."""
    image = openclip_image.of_settings(settings["image"])
    hf_text = openclip_text.writes_hugging_face(settings["text"])
    custom_text = hf_text or openclip_image.TOWERS[image].custom_text
    return Naming(image, custom_text, settings["text"]["projection"] == "bias", hf_text)


def from_config(config: Mapping[str, Any], path: Any, tensors: Tensors | None = None) -> model_settings.Settings:
    """A model's settings from open_clip_config.json (or its `model_cfg`).

    Args:
      config: the content of the file.
      path: of the file, for messages.
      tensors: the weights that it lies beside; None for those of a published model.

    Returns:
      Of two towers what `TwoTower` has, and of a CoCa all of `config.model`, its `kind` too.

    Raises:
      UserError: a setting that mmjax does not have.
    """
    model = config.get("model_cfg", config)
    for part in ("embed_dim", "vision_cfg", "text_cfg"):
        if part not in model:
            raise UserError(f"{path}: has no {part}, so it is not a config of OpenCLIP")
    if openclip_coca.is_coca(model):
        return openclip_coca.from_config(model, path)
    quick, bias = bool(model.get("quick_gelu", False)), model.get("init_logit_bias")
    tower = openclip_image.TOWERS[openclip_image.of_config(model["vision_cfg"])]
    settings = tower.template()
    settings["embed_dim"] = model["embed_dim"]
    settings["logit_bias_init"] = None if bias is None else float(bias)
    settings["image"] |= tower.from_config(model["vision_cfg"], quick, path)
    settings["text"] |= openclip_text.from_config(
        model["text_cfg"], quick, path, embed_dim=model["embed_dim"], tensors=tensors
    )
    return settings


def text_length(config: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> int:
    """Tokens that texts are cut to, where the text tower has positions for more; else 0."""
    text = {} if config is None else config.get("model_cfg", config)["text_cfg"]
    return openclip_text.text_length(text, settings["text"])


def to_config(settings: Mapping[str, Any], preprocessing: Mapping[str, Any], text_length: int = 0) -> dict[str, Any]:
    """The content of open_clip_config.json.

    Args:
      settings: of the model.
      preprocessing: of its images.
      text_length: tokens that texts are cut to; 0 for the text tower's positions.

    Raises:
      UserError: a setting that OpenCLIP does not have.
    """
    image, text = settings["image"], settings["text"]
    top: dict[str, Any] = dict(embed_dim=settings["embed_dim"])
    if settings["logit_bias_init"] is not None:
        top["init_logit_bias"] = settings["logit_bias_init"]
    naming = naming_of_settings(settings)
    tower = naming.image_tower
    if naming.custom_text:
        top["custom_text"] = True
    vision = tower.to_config(image)
    words = openclip_text.to_config(text, is_timm=tower.custom_text, length=text_length or text["context_length"])
    # One switch for both towers, which those of other libraries and ResNets do not read.
    are_read = ((image, tower.reads_quick), (text, not naming.hf_text))
    quick = {part["activation"] == "quick_gelu" for part, is_read in are_read if is_read}
    if len(quick) > 1:
        raise UserError("model.image.activation and model.text.activation: OpenCLIP has quick_gelu for both or none")
    if quick == {True}:
        top["quick_gelu"] = True
    model = top | dict(vision_cfg=vision, text_cfg=words)
    return dict(model_cfg=model, preprocess_cfg=preprocessing_lib.to_openclip(preprocessing))
