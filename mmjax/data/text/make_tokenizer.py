"""A tokenizer by its kind and file.

Kinds: `clip`, `bytes`, `words:PATH`, `sentencepiece:PATH`, `json:PATH` (any Hugging Face tokenizer.json), and, with
what is done to the texts before and to the ids after, `json+canonicalize:PATH`.
"""

import functools
from typing import Any

from mmjax import plugin_calls, registry
from mmjax.data.text.tokenizer import FIELD, Tokenizer
from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.io.reader import is_local, local_path
from mmjax.io.regular_file import NotReadableError, check_regular

_SAMPLE = "a photo of a cat"
_LARGEST = 1 << 30  # bytes of a tokenizer's file


def make_tokenizer(spec: str, context_length: int, *, file: bytes | None = None) -> Tokenizer:
    """Makes the tokenizer that `data.tokenizer` names.

    - `clip`: OpenAI CLIP's lower-cased byte-level BPE, 49408 ids, SOT 49406, EOT 49407, pad 0. Unlike OpenAI's and
      OpenCLIP's, text that spells a special token stays text, so that a caption cannot end itself. What is a letter or
      a number is as the `tokenizers` package's Unicode version has it.
    - `bytes`: UTF-8 bytes 0..255, then pad 256, bos 257, eos 258.
    - `words:PATH`: whole words, from a file with one a line: pad 0, bos 1, eos 2, unk 3, mask 4, sep 5, then the words.
      Texts are canonicalised as SigLIP's are; other words are unk. `words:shapes` has those of the drawn scenes.
    - `sentencepiece:PATH`: SigLIP's convention: canonicalised text, no bos, padded with the end-of-text id.
    - `json:PATH`: a tokenizer.json with its own normalizer and post-processor; an end-of-text id is appended where the
      post-processor adds nothing. `json+OPTION:PATH`, or several of them, does what the file does not tell:
      `whitespace`, `lower` or `canonicalize`, which are what OpenCLIP calls `clean`; `lowercase`, the normalizer of
      that name before the file's own (SigLIP 2); `strip_sep`, 0 for the separator's id (OpenCLIP's `strip_sep_token`);
      `bos`, the end-of-text id as the first one, too, where the post-processor adds none (GPT-2, to write with);
      `newline_sep`, the line feed's id as what separates a question from its answer (PaliGemma); `newline_end`, as what
      ends a text (BLIP-2 with OPT); `whisper`, texts that begin with <|startoftranscript|> alone and end with
      <|endoftext|>, whatever prompt the post-processor adds.
      PATH may also be BERT's vocab.txt, or GPT-2's vocab.json with merges.txt beside it.

    A text of more than 1024 characters is cut before it is cleaned, at a line's end or a space, to a head that has 32
    ids more than are kept. For `bytes` that changes nothing, for `clip` nothing where the text is ASCII without HTML
    entities or the cut is a line's end. Elsewhere an id could change where Unicode is broken (mojibake) in one part of
    a line of more than 10,000 characters and not in another. Nothing behind 32,768 characters (or 64 an id, where that
    is more) is looked at.

    Args:
      spec: one of the above; PATH is local or a URL that `etils.epath` reads.
      context_length: ids per text.
      file: content to use instead of reading PATH, as a checkpoint carries it.

    Raises:
      UserError: unknown kind, file missing or not of its format, package missing, context too short.
    """
    if context_length < 3:
        raise UserError(
            f"context_length={context_length} leaves no room for text between the special tokens; use 3 or more"
        )
    named, _, path = spec.partition(":")
    kind, *options = named.split("+")
    where = f"{FIELD}={spec!r}"
    registry.tokenizers.validate_choice(FIELD, kind, spec)
    form = registry.tokenizers.form(kind)
    if not form and spec != kind and not options:
        raise UserError(f"{where} is not known; choose one of: {', '.join(registry.tokenizers.written())}")
    make = registry.tokenizers.load(kind, where=where)
    if kind == "json":
        make = functools.partial(make, options=options)
    elif options:
        raise UserError(f"{where}: {kind} takes no {options[0]!r}; only json can have one, json+{options[0]}:PATH")
    if not form:
        with plugin_calls.calling(registry.tokenizers, kind, make, "make(spec, context_length) -> Tokenizer"):
            tokenizer = _checked(make(spec, context_length), where)
        if kind in registry.tokenizers.added():
            _check_added(tokenizer, kind, make, context_length)
        return tokenizer
    if not path:
        raise UserError(f"{where} lacks the path of its file; write {named}{form}")
    expects = "make(spec, context_length, path=..., content=...) -> Tokenizer"
    with plugin_calls.calling(registry.tokenizers, kind, make, expects):
        tokenizer = _checked(make(spec, context_length, path=path, content=file), where)
    if kind in registry.tokenizers.added():
        _check_added(tokenizer, kind, make, context_length)
    return tokenizer


def _checked(tokenizer: Any, where: str) -> Tokenizer:
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"{where}: what it names made a {type(tokenizer).__name__}, not a Tokenizer")
    return tokenizer


def _check_added(tokenizer: Tokenizer, kind: str, make: Any, context_length: int) -> None:
    """Checks what a plugin's tokenizer makes of a text.

    Raises:
      UserError: other numbers of ids than asked for, or ids that its vocabulary has not.
    """
    wrong = functools.partial(plugin_calls.wrong, registry.tokenizers, kind, make)
    if tokenizer.context_length != context_length:
        raise wrong(f"gives a Tokenizer of context_length={tokenizer.context_length}, not {context_length}")
    with plugin_calls.calling(registry.tokenizers, kind, make, "encode(texts) -> lists of ids"):
        ids, _ = tokenizer([_SAMPLE])
    if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        raise wrong(f"{_SAMPLE!r} has an id of {max(ids.max(), -ids.min())}, but vocab_size={tokenizer.vocab_size}")


def require_bos(tokenizer: Tokenizer, use: str) -> None:
    """Checks that texts begin with an id that the first word can be predicted from.

    Args:
      tokenizer: to check.
      use: what needs it, such as "objectives.caption".

    Raises:
      UserError: its kind has none.
    """
    if tokenizer.bos_id is None:
        raise UserError(
            f"{FIELD}={tokenizer.spec!r} begins texts with no id of its own, which {use} needs to predict the first"
            " word from; choose clip, bytes, words:PATH, json+bos:PATH, or a tokenizer.json that adds one"
        )


def read_file(spec: str, path: str) -> bytes:
    """Content of a tokenizer's file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        if is_local(path):
            check_regular(local_path(path), _LARGEST)
        return paths.as_path(path).read_bytes()
    except OSError as error:
        reason = error.strerror if isinstance(error, NotReadableError) else type(error).__name__
        raise UserError(f"{FIELD}={spec!r}: cannot read {path!r} ({reason}); check the path") from error
