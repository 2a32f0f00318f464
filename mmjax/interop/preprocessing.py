"""Image preprocessing as OpenCLIP's and Hugging Face's files describe it: what mmjax does not do is refused."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmjax.data.image import transforms
from mmjax.errors import UserError
from mmjax.interop.tensor_files import read_json

_NUMBERS = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers of resampling
HF_FILES = ("processor_config.json", "preprocessor_config.json")


def defaults(is_clip: bool, rule: str) -> dict[str, Any]:
    """CLIP's way to prepare images, or SigLIP's, by the rule of a library, see `data.image.transforms.RULES`."""
    mean, std = transforms.MEAN_STD["clip" if is_clip else "siglip"]
    prepared = dict(
        resize="crop" if is_clip else "squash", interpolation="bicubic", mean=mean, std=std, image_rule=rule
    )
    # big_vision's `resize` takes the four nearest pixels unless its configs want more, which they do not.
    return prepared | (dict(interpolation="bilinear", antialias=False) if rule == "big_vision" else {})


# -- OpenCLIP ----------------------------------------------------------------------------------------------------------

_MODES = {"shortest": "crop", "squash": "squash"}
# Filled is what a resize_mode leaves empty that mmjax does not have.
_OPENCLIP_FIELDS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def from_openclip(
    config: Mapping[str, Any], image_size: int, path: Any, group: str = "preprocess_cfg"
) -> dict[str, Any]:
    """From open_clip_config.json's `preprocess_cfg`; what it leaves out is OpenAI's CLIP's there, for any model.

    Args:
      config: of the model.
      image_size: the model's.
      path: of the file.
      group: the field of `config` that has the fields.

    Raises:
      UserError: something that mmjax does not do.
    """
    prefix = f"{path}: {group}"
    cfg = _set_fields(config.get(group), _OPENCLIP_FIELDS, prefix)
    if cfg.get("mode", "RGB") != "RGB":
        raise UserError(f"{prefix}.mode={cfg['mode']!r} is not read; mmjax takes RGB images")
    if cfg.get("interpolation", "bicubic") not in _NUMBERS.values():
        raise UserError(f"{prefix}.interpolation={cfg['interpolation']!r} is not bicubic or bilinear")
    if cfg.get("resize_mode", "shortest") not in _MODES:
        raise UserError(f"{prefix}.resize_mode={cfg['resize_mode']!r} is not shortest or squash")
    if "size" in cfg and cfg["size"] not in (image_size, [image_size], [image_size] * 2):
        raise UserError(f"{prefix}.size={cfg['size']}: the model takes {image_size}; correct one of the two")
    prepared = defaults(True, "open_clip")
    if "interpolation" in cfg:
        prepared["interpolation"] = cfg["interpolation"]
    if "resize_mode" in cfg:
        prepared["resize"] = _MODES[cfg["resize_mode"]]
    return prepared | _mean_std(cfg, "mean", "std", prepared, prefix)


# -- Hugging Face ------------------------------------------------------------------------------------------------------

_HF_READ = {
    *("image_mean", "image_std", "resample", "size", "crop_size", "do_center_crop"),
    *("do_resize", "do_rescale", "do_normalize", "rescale_factor", "do_pad"),
}
# Fields that change nothing in what one picture becomes.
_HF_IGNORED = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys"),
    *("do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),
    *("default_to_square", "pad_size", "image_seq_length", "transformers_version"),
}


@dataclasses.dataclass(frozen=True)
class Processor:
    """What a class of image processors does where its file leaves fields out.

    Attributes:
      mean_std: a key of `transforms.MEAN_STD`.
      crops: the middle of a picture is cut out; else it is squashed.
      interpolation: of resizing.
      is_square: a size of one number is a square's where nothing is cut out, also of a class that crops.
      keeps_shapes: pictures keep their shapes there, and are padded; here they are squashed.
    """

    mean_std: str
    crops: bool = False
    interpolation: str = "bicubic"
    is_square: bool = False
    keeps_shapes: bool = False


PROCESSORS = {
    "CLIPImageProcessor": Processor("clip", crops=True),
    # Its authors squash pictures, and so did it before transformers 4.26, of when files have a size of one number.
    "ChineseCLIPImageProcessor": Processor("clip", crops=True, is_square=True),
    "ChineseCLIPFeatureExtractor": Processor("clip", crops=True, is_square=True),
    "CLIPFeatureExtractor": Processor("clip", crops=True),
    "OwlViTImageProcessor": Processor("clip"),
    "OwlViTFeatureExtractor": Processor("clip"),
    "SiglipImageProcessor": Processor("siglip"),
    "BlipImageProcessor": Processor("clip"),
    "ViTImageProcessor": Processor("siglip", interpolation="bilinear"),
    "ViTFeatureExtractor": Processor("siglip", interpolation="bilinear"),
    "BitImageProcessor": Processor("clip", crops=True),
    "ViltImageProcessor": Processor("siglip", keeps_shapes=True),
    "ViltFeatureExtractor": Processor("siglip", keeps_shapes=True),
}


def read_hf_file(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The file of the image processor and its fields; as in the library, the processor's file goes first.

    Raises:
      UserError: a file is not JSON.
    """
    processor, image_processor = (folder / name for name in HF_FILES)
    if processor.is_file():
        content = read_json(processor)
        if "image_processor" in content:
            return processor, content["image_processor"]
    return (image_processor, read_json(image_processor)) if image_processor.is_file() else None


def hf_defaults(name: str) -> dict[str, Any]:
    """What a class of image processors does where no file says more; `name` is a key of `PROCESSORS`."""
    processor = PROCESSORS[name]
    mean, std = transforms.MEAN_STD[processor.mean_std]
    resize = dict(resize="crop" if processor.crops else "squash", interpolation=processor.interpolation)
    return resize | dict(mean=mean, std=std, image_rule="huggingface")


def of_hf_folder(folder: Path, name: str, image_size: int | None) -> dict[str, Any]:
    """As the file of an image processor in a folder says; without one as the class `name` does it.

    Args:
      folder: of the weights.
      name: the model's class of image processors, a key of `PROCESSORS`.
      image_size: the model's; None where its config does not have it.

    Raises:
      UserError: the file is not JSON, or wants something that mmjax does not do.
    """
    file = read_hf_file(folder)
    return hf_defaults(name) if file is None else from_hf(file[1], name, image_size, file[0])


def from_hf(config: Mapping[str, Any], default: str, image_size: int | None, path: Any) -> dict[str, Any]:
    """From an image processor's fields; what they leave out is as the processor's class has it.

    Args:
      config: the fields.
      default: the model's class of processors, a key of `PROCESSORS`, for a file that does not name one.
      image_size: the model's; None where its config does not have it.
      path: of the file.

    Raises:
      UserError: something that mmjax does not do.
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    named = kind.removesuffix("Fast").removesuffix("Pil")
    if named and named not in PROCESSORS:
        names = ", ".join(name for name in PROCESSORS if name.endswith("Processor"))
        raise UserError(f"{path}: image_processor_type={kind!r} is not read; mmjax reads {names}")
    prepared, processor = hf_defaults(named or default), PROCESSORS[named or default]
    config = _as_squares(config) if processor.keeps_shapes else config
    cfg = _set_fields(config, _HF_READ | _HF_IGNORED, str(path), separator=": ")
    for field, wanted in (("do_resize", True), ("do_rescale", True), ("do_normalize", True), ("do_pad", False)):
        if cfg.get(field, wanted) is not wanted:
            raise UserError(f"{path}: {field}={cfg[field]!r} is not read; mmjax has {wanted} there")
    factor = cfg.get("rescale_factor", 1 / 255)
    if not _is_number(factor) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        raise UserError(f"{path}: rescale_factor={factor!r} is not read; mmjax has 1/255")
    if "resample" in cfg:
        if type(cfg["resample"]) is not int or cfg["resample"] not in _NUMBERS:
            raise UserError(f"{path}: resample={cfg['resample']!r} is neither 3 (bicubic) nor 2 (bilinear)")
        prepared["interpolation"] = _NUMBERS[cfg["resample"]]
    prepared |= _mean_std(cfg, "image_mean", "image_std", prepared, str(path), separator=": ")
    return prepared | _hf_size(cfg, processor, image_size, path)


def _as_squares(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a processor that keeps shapes as those of one that squashes."""
    fields = {name: value for name, value in cfg.items() if name not in ("do_pad", "size_divisor")}
    if isinstance(fields.get("size"), Mapping) and set(fields["size"]) == {"shortest_edge"}:
        fields["size"] = dict.fromkeys(("height", "width"), fields["size"]["shortest_edge"])
    return fields


def _hf_size(cfg: Mapping[str, Any], processor: Processor, image_size: int | None, path: Any) -> dict[str, Any]:
    """Whether whole pictures are squashed or their middles cut out; checks that the model's size comes out."""
    size = cfg.get("size")
    if size is None:  # the class's own is 224 pixels, but only the model's can be meant
        return dict(resize="crop" if processor.crops else "squash")
    is_cropped = cfg.get("do_center_crop", processor.crops)
    if is_cropped not in (True, False):
        raise UserError(f"{path}: do_center_crop={is_cropped!r} is not true or false")
    if type(size) is int:  # of before transformers 4.26; where nothing is cut out the side of a square
        square = not is_cropped and (not processor.crops or processor.is_square)
        size = dict.fromkeys(("height", "width"), size) if square else {"shortest_edge": size}
    if not isinstance(size, Mapping) or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise UserError(f"{path}: size={size!r} is not read; mmjax takes a shortest_edge, or a height and a width")
    crop = cfg.get("crop_size")
    crop = {"height": crop, "width": crop} if type(crop) is int else crop
    if "shortest_edge" in size and not is_cropped:
        raise UserError(
            f"{path}: size={size!r} without a crop (do_center_crop) keeps pictures' shapes; mmjax makes squares of them"
        )
    sides = [*size.values()]
    if is_cropped and crop is not None:
        if not isinstance(crop, Mapping) or set(crop) != {"height", "width"}:
            raise UserError(f"{path}: crop_size={crop!r} is not read; mmjax takes a height and a width")
        if len({*map(str, sides), *map(str, crop.values())}) > 1:
            sizes = f"resizes to {' x '.join(map(str, sides))} and then crops {' x '.join(map(str, crop.values()))}"
            raise UserError(f"{path}: {sizes} pixels; mmjax takes equal sizes")
    if any(type(side) is not int for side in sides) or len(set(sides)) > 1:
        raise UserError(f"{path}: size={size!r} is not a square of whole pixels; mmjax takes squares")
    if image_size is not None and sides[0] != image_size:
        raise UserError(
            f"{path}: makes images of {sides[0]} pixels, but the model takes {image_size}; correct one of the two files"
        )
    return dict(resize="crop" if "shortest_edge" in size else "squash")


# -- writing -----------------------------------------------------------------------------------------------------------


_RESAMPLE = {name: number for number, name in _NUMBERS.items()}


def to_hf(preprocessing: Mapping[str, Any], name: str, processor_class: str) -> dict[str, Any]:
    """The content of preprocessor_config.json.

    Args:
      preprocessing: `size`, `resize`, `interpolation`, `mean` and `std`.
      name: the class of image processors, a key of `PROCESSORS`; CLIP's where a picture's middle is cut out.
      processor_class: of images and texts together; "" for none.
    """
    size, crop = preprocessing["size"], preprocessing["resize"] == "crop"
    square = {"height": size, "width": size}
    config: dict[str, Any] = dict(
        image_processor_type="CLIPImageProcessor" if crop else name,
        processor_class=processor_class,
        do_resize=True,
        size={"shortest_edge": size} if crop else square,
        resample=_RESAMPLE[exported_interpolation(preprocessing)],
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(preprocessing["mean"]),
        image_std=list(preprocessing["std"]),
        do_convert_rgb=True,
    )
    if not processor_class:
        del config["processor_class"]
    if config["image_processor_type"] == "CLIPImageProcessor":
        config |= dict(do_center_crop=crop, crop_size=square)
    return config


def exported_interpolation(prepared: Mapping[str, Any]) -> str:
    """The interpolation in exported files, which always means antialiasing; Google's own SigLIP files have bicubic."""
    return prepared["interpolation"] if prepared.get("antialias", True) else "bicubic"


def to_openclip(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `preprocess_cfg` in open_clip_config.json."""
    resize = {"crop": "shortest", "squash": "squash"}[prepared["resize"]]
    fields = dict(mean=list(prepared["mean"]), std=list(prepared["std"]), resize_mode=resize)
    return fields | dict(interpolation=exported_interpolation(prepared))


# -- both --------------------------------------------------------------------------------------------------------------


def _set_fields(fields: Any, known: Collection[str], prefix: str, separator: str = ".") -> dict[str, Any]:
    """The fields that are not null, which stands for what is left out.

    Raises:
      UserError: no fields, or one that is not known.
    """
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        raise UserError(f"{prefix}: {fields!r} is no object of fields; correct it")
    set_fields = {name: value for name, value in fields.items() if value is not None}
    for name, value in set_fields.items():
        if name not in known and value is not False:
            raise UserError(f"{prefix}{separator}{name}={value!r} is not read; mmjax has no such setting")
    return set_fields


def _mean_std(
    cfg: Mapping[str, Any], mean: str, std: str, default: Mapping[str, Any], prefix: str, separator: str = "."
) -> dict[str, Any]:
    numbers = {}
    for ours, theirs in (("mean", mean), ("std", std)):
        value = cfg.get(theirs, default[ours])
        is_triple = isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))
        if not is_triple or (ours == "std" and min(value) <= 0):
            wanted = "three numbers" + (" greater than 0" if ours == "std" else "")
            raise UserError(f"{prefix}{separator}{theirs}={value!r}: wants {wanted}, for red, green and blue")
        numbers[ours] = [float(x) for x in value]
    return numbers


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
