"""Folders of transformers' models whose files are changed for the worse, and tokenizers in older files."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from campaigns.family_models import BERT, IMAGE, SETTINGS, blank_params, write_folder
from mmjax.config.schema import base_config
from mmjax.config.typed_groups import parse_group
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.interop import (
    bert_towers,
    export,
    foreign_checkpoint,
    lone_bert,
    model_settings,
    openclip,
    param_translation,
)
from mmjax.interop.families import timm_vit
from mmjax.interop.families.family import complete, read_settings
from mmjax.interop.param_names import albef, bert
from mmjax.interop.param_names.rows import Row
from mmjax.models.config import ModelConfig

_PREPARED = dict(size=16, resize="crop", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
_VIT = dict(image_size=16, layers=2, width=16, head_width=8, patch_size=8)
_TEXT = dict(context_length=8, vocab_size=40, width=16, heads=2, layers=2)
# Configs of OpenCLIP by what their models have that CLIP's ViT has not.
OPENCLIP = {
    "CLIPA": dict(vision_cfg=_VIT | dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True), text_cfg=_TEXT),
    "a ResNet": dict(vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=64), text_cfg=_TEXT),
    "a ConvNeXt": dict(
        vision_cfg=dict(timm_model_name="test_convnext", timm_pool="", timm_proj="linear", image_size=64),
        text_cfg=_TEXT,
    ),
    "a CoCa": dict(
        vision_cfg=_VIT | dict(attentional_pool=True, attn_pooler_heads=2, output_tokens=True),
        text_cfg=_TEXT | dict(embed_cls=True, output_tokens=True),
        multimodal_cfg=dict(context_length=8, vocab_size=40, width=16, heads=2, layers=2, attn_pooler_heads=2),
        custom_text=True,
    ),
}

_BERT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40)
_BERT |= dict(model_type="bert", max_position_embeddings=8, type_vocab_size=2)
_TIMM = dict(
    architecture="vit_tiny_patch16_224",
    num_classes=2,
    global_pool="token",
    model_args=dict(img_size=16, patch_size=8, embed_dim=12, num_heads=2, depth=2, mlp_ratio=2),
    pretrained_cfg=dict(input_size=[3, 16, 16], mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", crop_pct=0.9),
    label_names=["a cat", "a dog"],
)

Make, Read = Callable[[Path], None], Callable[[Path], None]
_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "generation_config.json")
_WRITERS = (
    "VisionEncoderDecoderModel",
    "BlipForConditionalGeneration",
    "BlipForQuestionAnswering",
    "Blip2ForConditionalGeneration",
)  # which have a file of how they write
_ALBEF = "ALBEF.safetensors"
_FUSION = dict(depth=1, heads=2, mlp_dim=28, norm="post", norm_eps=1e-12)
_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "##s")


def kinds() -> Iterator[tuple[str, str, Make, Read]]:
    """(what it is, the file that is changed, what makes a good one, what reads it)."""
    for name in SETTINGS:
        for file in _FILES[: len(_FILES) if name in _WRITERS else 3]:
            yield f"{name}'s {file}", file, functools.partial(_write, name), _read
    for name in OPENCLIP:
        for file in ("open_clip_config.json", "open_clip_model.safetensors"):
            yield f"OpenCLIP's {file} of {name}", file, functools.partial(_write_openclip, name), _read
    for name, make, read in (("a BERT", _write_bert, _read_bert), ("timm's ViT", _write_timm, _read)):
        for file in _FILES[:2]:
            yield f"{file} of {name}", file, make, read
    yield "ALBEF's own file", _ALBEF, _write_albef, _read_albef
    yield "vocab.txt", "vocab.txt", _write_words, functools.partial(_tokenize, "json:{}/vocab.txt")
    for file in ("vocab.json", "merges.txt"):
        yield file, file, _write_pairs, functools.partial(_tokenize, "json+bos:{}/vocab.json")


def _write(name: str, folder: Path) -> None:
    write_folder(SETTINGS[name], folder)


def _read(folder: Path) -> None:
    foreign_checkpoint.open_checkpoint(folder).read(lambda _, array: array)


def _write_openclip(name: str, folder: Path) -> None:
    settings = openclip.from_config(dict(model_cfg=dict(embed_dim=16) | OPENCLIP[name]), name)
    if "pool" in settings["text"]:  # CoCa's are whole as they are read
        model_settings.complete(settings, name)
    export.write(folder, "openclip", settings=settings, preprocessing=_PREPARED, params=blank_params(settings))


def _write_table(table: Sequence[Row], params: Mapping[str, np.ndarray], folder: Path, config: Any) -> None:
    """A folder with arrays under another library's names, and its config."""
    rows = param_translation.select_rows(table, {path: x.shape for path, x in params.items()}, "")
    save_file(dict(param_translation.export_params(params, rows)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def _bert_model() -> Any:
    text = bert_towers.from_config(_BERT, "") | dict(pool="cls", pooler=True, projection="linear")
    return base_config("tiny").model.to_dict() | dict(text=text)


def _write_bert(folder: Path) -> None:
    params = {path: x for path, x in blank_params(_bert_model()).items() if path.startswith("text")}
    params = {path: x for path, x in params.items() if "projection" not in path}
    _write_table(bert.tower("bert."), params, folder, _BERT)


def _read_bert(folder: Path) -> None:
    model = parse_group(ModelConfig, _bert_model(), "model")
    lone_bert.is_bert(folder)
    lone_bert.open_bert(folder, model).read(lambda _, array: array)


def _write_timm(folder: Path) -> None:
    settings = complete(read_settings(timm_vit.FAMILY, _TIMM, folder))
    _write_table(timm_vit.FAMILY.table(settings), blank_params(settings), folder, _TIMM)


def _write_albef(folder: Path) -> None:
    text = BERT | dict(token_types=2)
    settings = complete(dict(kind="albef", embed_dim=12, image=IMAGE, text=text, fusion=_FUSION, match=True, mlm=True))
    params = blank_params(settings)
    rows = param_translation.select_rows(
        albef.table("text_encoder.bert.", 2), {path: x.shape for path, x in params.items()}, ""
    )
    save_file(dict(param_translation.export_params(params, rows)), folder / _ALBEF)


def _read_albef(folder: Path) -> None:
    foreign_checkpoint.open_checkpoint(folder / _ALBEF, {"heads": 2}).read(lambda _, array: array)


def _write_words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(_WORDS))


def _write_pairs(folder: Path) -> None:
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "\u0120": 4, "\u0120ab": 5}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n", encoding="utf-8")


def _tokenize(spec: str, folder: Path) -> None:
    make_tokenizer(spec.format(folder), 16)(["a photo of ab ab", ""])
