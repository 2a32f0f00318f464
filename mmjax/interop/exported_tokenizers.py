"""Tokenizers written as Hugging Face's files, which transformers and OpenCLIP read beside exported weights."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from mmjax.data.text import clip_bpe, word_vocab
from mmjax.data.text.json_encoder import BOS, CLEANERS, LOWERCASE, NEWLINE_END, STRIP_SEP
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.utils.optional_imports import require

CONFIG = "tokenizer_config.json"
_FAST = "PreTrainedTokenizerFast"
# SigLIP sees padding as it sees words, so that its model gets no mask; CLIP sees nothing behind the end of a text.
_INPUTS = dict(model_input_names=["input_ids"])
_PUNCTUATION = r"[!-/:-@\[-`{-~]"  # of ASCII
_BOS, _EOS, _PAD, _UNK, _MASK, _SEP = "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<sep>"


def files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The content of the files by name; none for a kind that Hugging Face's library cannot have, a plugin's."""
    kind, *options = tokenizer.spec.partition(":")[0].split("+")
    if kind == "clip":
        return _clip(tokenizer)
    if kind == "bytes":
        return _fast(tokenizer, _bytes_backend(tokenizer))
    if kind == "words":
        return _fast(tokenizer, _words_backend(tokenizer))
    if kind == "sentencepiece":
        return _sentencepiece(tokenizer)
    return _json(tokenizer, options) if kind == "json" else {}


def openclip_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """Fields of OpenCLIP's `text_cfg` by which it reads these files; none for its own tokenizer."""
    kind, *options = tokenizer.spec.partition(":")[0].split("+")
    if kind == "clip":
        return {}
    cleaning = next((option for option in options if option in CLEANERS), None)
    cleaning = cleaning or ("canonicalize" if kind in ("sentencepiece", "words") else None)
    fields: dict[str, Any] = dict(hf_tokenizer_name="local")  # any name: `local-dir:` looks into the folder
    return fields | (dict(tokenizer_kwargs={"clean": cleaning}) if cleaning else {})


def notes(tokenizer: Tokenizer, form: str) -> list[str]:
    """What the other library does otherwise with texts, a line each; `form` is `openclip` or `hf`."""
    kind, *options = tokenizer.spec.partition(":")[0].split("+")
    cleaning = [option for option in options if option in CLEANERS]
    if not files(tokenizer):
        return [f"neither library has the tokenizer {tokenizer.spec!r}; give the model token ids"]
    if form == "hf" and cleaning:
        return [f"texts are cleaned before the tokenizer ({cleaning[0]}), which Hugging Face's does not do; clean them"]
    if form == "openclip" and not cleaning and kind in ("json", "bytes"):
        return ["OpenCLIP mends broken Unicode and HTML entities in texts before the tokenizer, and this run did not"]
    return []


def _config(tokenizer: Tokenizer, kind: str, **fields: Any) -> bytes:
    content = dict(tokenizer_class=kind, model_max_length=tokenizer.context_length, **fields)
    return (json.dumps(content, indent=2) + "\n").encode()


def _clip(tokenizer: Tokenizer) -> dict[str, bytes]:
    backend = json.loads(clip_bpe.backend().to_str())["model"]
    first, last = "<|startoftext|>", "<|endoftext|>"
    vocab = backend["vocab"] | {first: clip_bpe.BOS, last: clip_bpe.EOS}
    merges = "\n".join(" ".join(pair) for pair in backend["merges"])
    specials = dict(bos_token=first, eos_token=last, unk_token=last, pad_token=last)
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": f"#version: 0.2\n{merges}\n".encode(),
        CONFIG: _config(tokenizer, "CLIPTokenizer", do_lower_case=True, **specials),
    }


def _fast(tokenizer: Tokenizer, backend: tokenizers.Tokenizer) -> dict[str, bytes]:
    specials: dict[str, Any] = dict(bos_token=_BOS, eos_token=_EOS, pad_token=_PAD) | _INPUTS
    if tokenizer.mask_id is not None:
        specials |= dict(unk_token=_UNK, mask_token=_MASK, sep_token=_SEP)
    return {
        "tokenizer.json": backend.to_str(pretty=True).encode(),
        CONFIG: _config(tokenizer, _FAST, padding_side="right", **specials),
    }


def _around(tokenizer: Tokenizer) -> Any:
    specials = [(_BOS, tokenizer.bos_id), (_EOS, tokenizer.eos_id)]
    return processors.TemplateProcessing(single=f"{_BOS} $A {_EOS}", special_tokens=specials)


def _bytes_backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    vocab = dict(clip_bpe.byte_values()) | {_PAD: tokenizer.pad_id, _BOS: tokenizer.bos_id, _EOS: tokenizer.eos_id}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    spaces = [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(spaces)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = _around(tokenizer)
    return backend


def _words_backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    words = word_vocab.parse_words(tokenizer.file_bytes or b"", tokenizer.spec)
    names = [_PAD, _BOS, _EOS, _UNK, _MASK, _SEP, *words]
    vocab = {name: number for number, name in enumerate(names)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=_UNK))
    punctuation = normalizers.Replace(tokenizers.Regex(_PUNCTUATION), "")
    backend.normalizer = normalizers.Sequence([normalizers.Replace("_", " "), punctuation, normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = _around(tokenizer)
    return backend


def _sentencepiece(tokenizer: Tokenizer) -> dict[str, bytes]:
    content = tokenizer.file_bytes or b""
    model = require("sentencepiece", extra="sentencepiece", where=tokenizer.spec).SentencePieceProcessor()
    model.LoadFromSerializedProto(content)
    last, unknown = model.IdToPiece(tokenizer.eos_id), model.IdToPiece(model.unk_id())
    specials: dict[str, Any] = dict(eos_token=last, pad_token=last, unk_token=unknown)
    specials |= dict(do_lower_case=True) | _INPUTS
    return {"spiece.model": content, CONFIG: _config(tokenizer, "SiglipTokenizer", **specials)}


def _with_specials(backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> bytes:
    """A tokenizer.json that puts the same ids around a text as mmjax does, where its own post-processor does not."""
    ids = tokenizer.encode(["a"])[0]
    words = backend.encode("a", add_special_tokens=False).ids
    start = next(i for i in range(len(ids)) if ids[i : i + len(words)] == words)
    before, after = ids[:start], ids[start + len(words) :]
    name = lambda number: backend.id_to_token(number) or ""
    template = " ".join([*map(name, before), "$A", *map(name, after)])
    specials = sorted({(name(number), number) for number in (*before, *after)})
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return backend.to_str(pretty=True).encode()


def _json(tokenizer: Tokenizer, options: list[str]) -> dict[str, bytes]:
    content = tokenizer.file_bytes or b""
    backend = tokenizers.Tokenizer.from_str(content.decode())
    names: Mapping[str, int | None] = dict(
        bos_token=tokenizer.bos_id, eos_token=tokenizer.eos_id, pad_token=tokenizer.pad_id, mask_token=tokenizer.mask_id
    )
    specials: dict[str, Any] = {
        name: backend.id_to_token(number) for name, number in names.items() if number is not None
    }
    kind = _FAST
    specials |= _INPUTS
    if LOWERCASE in options:  # the class that puts the normalizer before those of the file
        kind = "Siglip2Tokenizer"
    if not {BOS, STRIP_SEP, NEWLINE_END}.isdisjoint(options) or backend.encode("a").ids[-1:] != [tokenizer.eos_id]:
        content = _with_specials(backend, tokenizer)
    return {"tokenizer.json": content, CONFIG: _config(tokenizer, kind, padding_side="right", **specials)}
