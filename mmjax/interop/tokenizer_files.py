"""The tokenizer that lies beside a checkpoint of another library, as `data.tokenizer` names it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.text.json_encoder import LOWERCASE, STRIP_SEP
from mmjax.data.text.older_files import OLDER

CLIP_VOCAB = 49408
_GEMMA_VOCAB = 256_000
_SENTENCEPIECE, _JSON = ("spiece.model", "sentencepiece.model"), "tokenizer.json"
_CLIP_CLEAN, _HF_CLEAN = "lower", "whitespace"  # OpenCLIP's defaults


def tokenizer(folder: Path, class_name: str, vocab_size: int) -> str:
    """Hugging Face's or big_vision's; empty where no file lies there.

    SigLIP 2 was trained on lower-cased texts. Its tokenizer.json, Gemma's, lacks this; transformers' class has it.

    Args:
      folder: of the weights.
      class_name: `tokenizer_class` of tokenizer_config.json, where there is one.
      vocab_size: of the text tower; Gemma's is recognised where no class is named.
    """
    spec = _sentencepiece(folder)
    if spec:
        return spec
    is_siglip2 = class_name.startswith(("Gemma", "Siglip2")) or (not class_name and vocab_size == _GEMMA_VOCAB)
    return _json(folder, [LOWERCASE] if is_siglip2 else [])


def of_family(folder: Path, options: Sequence[str]) -> str:
    """A tokenizer.json's, else that of older files, GPT-2's vocab.json and merges.txt or BERT's vocab.txt.

    Args:
      folder: of the weights.
      options: of `json` in `data.tokenizer`.

    Returns:
      The tokenizer, as `data.tokenizer` has it; empty where no file lies there.
    """
    file = next((folder / name for name in (_JSON, *OLDER) if (folder / name).is_file()), None)
    return "" if file is None else f"{'+'.join(['json', *options])}:{file.resolve()}"


def openclip_tokenizer(folder: Path | None, text: Mapping[str, Any], vocab_size: int) -> str:
    """OpenCLIP's, with how it cleans texts; empty where it is a file that does not lie there.

    Options of OpenCLIP that mmjax does not have stand in the result too, so that texts are refused and not ids.

    Args:
      folder: of the weights; None without any.
      text: `text_cfg`.
      vocab_size: of the text tower.
    """
    options = dict(text.get("tokenizer_kwargs") or {})
    if text.get("tokenizer_mode"):
        options["tokenizer_mode"] = text["tokenizer_mode"]
    in_file = bool(text.get("hf_tokenizer_name"))
    clean = options.pop("clean", None) or (_HF_CLEAN if in_file else _CLIP_CLEAN)
    strip = [STRIP_SEP] if options.pop("strip_sep_token", False) else []
    unknown = [f"{name}={value}" for name, value in options.items() if value not in (None, False, "")]
    if not in_file:
        if vocab_size != CLIP_VOCAB:
            return ""
        return "+".join(["clip", *([] if clean == _CLIP_CLEAN else [clean]), *strip, *unknown])
    if folder is None:
        return ""
    spec = _json(folder, [clean, *strip, *unknown])
    # SentencePiece's kind cleans as SigLIP does, and not otherwise.
    if not spec and clean == "canonicalize" and not strip and not unknown:
        spec = _sentencepiece(folder)
    return spec


def _sentencepiece(folder: Path) -> str:
    return next(
        (f"sentencepiece:{folder.resolve() / name}" for name in _SENTENCEPIECE if (folder / name).is_file()), ""
    )


def _json(folder: Path, options: list[str]) -> str:
    file = folder / _JSON
    return f"{'+'.join(['json', *options])}:{file.resolve()}" if file.is_file() else ""
