"""OpenAI CLIP's tokenizer: texts cut, cleaned and encoded by byte-level BPE, and ids as text again."""

import functools
import gzip
import html
import importlib.resources
import re
from collections.abc import Iterable

import ftfy
import ftfy.badness
import tokenizers

from mmjax.data.text.text_normalization import HEAD, truncate_text
from mmjax.data.text.tokenizer import Tokenizer

VOCAB_SIZE = 49408
BOS, EOS = 49406, 49407

_MERGES = 49152 - 256 - 2
_END_OF_WORD = "</w>"
_PATTERN = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_ASCII_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")  # the same, for lower-case ASCII

_MOJIBAKE_HEAD = 10_000
_LONG_GAP = re.compile(r" {17,}")
_AMPERSANDS = re.compile(r"(&(?:(?:amp|AMP|#0{0,9}38|#[xX]0{0,9}26);){16})(?:(?:amp|AMP|#0{0,9}38|#[xX]0{0,9}26);)+")
_BLANK_LINE = re.compile(r"\n[\0-\x09\x0b-\x1a\x1c-\x20\x7f]*(?=\n)")


def make_clip(spec: str, context_length: int) -> Tokenizer:
    """The tokenizer `clip`."""
    backend()  # built here, not in the middle of the first batch
    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=VOCAB_SIZE,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=0,
        special_ids=(BOS, EOS),
        cleaning="ftfy, HTML entities twice, whitespace, lower case",
        encode=functools.partial(encode, context_length=context_length),
        decode_words=clip_text,
    )


def encode(texts: Iterable[str], context_length: int) -> list[list[int]]:
    """Ids of texts, BOS and EOS included, at most `context_length` a text."""
    room = context_length - 2
    return [[BOS, *_encode_one(_truncate(text, room))[:room], EOS] for text in texts]


def _encode_one(text: str) -> list[int]:
    return clip_ids(clean_clip(text))


def clean_clip(text: str) -> str:
    """CLIP's cleaning: mended Unicode, HTML entities resolved twice, whitespace collapsed, lower case."""
    return collapse_whitespace(text).lower()


def fix_unicode(text: str) -> str:
    """Mended Unicode, HTML entities resolved twice."""
    # ftfy and html leave printable ASCII without entities as it is, and take most of the time.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    return html.unescape(html.unescape(ftfy.fix_text(_shorten_ampersands(text))))


def _shorten_ampersands(text: str) -> str:
    """A text with at most 16 escapes of an escaped ampersand (`&amp;amp;...`): ftfy goes over it once for each.

    It resolves all of them, in the lines before the first one with a "<".
    """
    end = text.rfind("\n", 0, max(text.find("<"), 0)) + 1 if "<" in text else len(text)
    return _AMPERSANDS.sub(lambda match: match[1], text[:end]) + text[end:]


def collapse_whitespace(text: str) -> str:
    """Mended Unicode, HTML entities resolved twice, whitespace collapsed: OpenCLIP's `clean` of `whitespace`."""
    return " ".join(fix_unicode(text).split())


def _truncate(text: str, ids: int) -> str:
    """The head of a text that has `ids` ids and some more. ftfy takes its time for every line and every space."""
    if len(text) <= HEAD:
        return text
    # It looks at a few spaces together, at most.
    text = _LONG_GAP.sub(" " * 16, _BLANK_LINE.sub("", _shorten_ampersands(text)))
    # Whether and how broken Unicode can be mended is decided by the whole line.
    if len(text) <= _MOJIBAKE_HEAD and not text.isascii() and ftfy.badness.is_bad(text):
        return text
    return truncate_text(text, ids, _encode_one)


def clip_ids(text: str) -> list[int]:
    """Ids of a text that `clean_clip` has cleaned."""
    # Captions are mostly the same words: looking them up is ten times faster than encoding them again. No word goes
    # across a space.
    if text.isascii():
        return [i for word in _ASCII_WORDS.findall(text) for i in _word_ids(word)]
    return [i for words in text.split() for i in _word_ids(words)]


def clip_text(ids: Iterable[int]) -> str:
    """The text of ids below BOS, words separated by a space; what is no UTF-8 is replaced."""
    by_id = _symbols_by_id()
    symbols = "".join(by_id[i].replace(_END_OF_WORD, " ") for i in ids)
    values = byte_values()
    return b"".join(b" " if symbol == " " else bytes([values[symbol]]) for symbol in symbols).decode("utf-8", "replace")


@functools.lru_cache(maxsize=1 << 16)
def _word_ids(word: str) -> tuple[int, ...]:
    return tuple(backend().encode(word, add_special_tokens=False).ids)


@functools.lru_cache(maxsize=1)
def _symbols_by_id() -> dict[int, str]:
    return {i: symbol for symbol, i in backend().get_vocab().items()}


@functools.lru_cache(maxsize=1)
def backend() -> tokenizers.Tokenizer:
    """The encoder, built from CLIP's list of merges once."""
    content = importlib.resources.files("mmjax.data").joinpath("vocab", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(content).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _MERGES + 1]]  # the first line is a header
    symbols = [*_byte_symbols(), *(s + _END_OF_WORD for s in _byte_symbols()), *map("".join, merges)]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    model = tokenizers.models.BPE(vocab, merges, end_of_word_suffix=_END_OF_WORD, continuing_subword_prefix="")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_PATTERN), behavior="removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def _byte_symbols() -> list[str]:
    """One printable character per byte, in the order of CLIP's ids: printable bytes first, then U+0100 and on."""
    printable = _printable()
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@functools.lru_cache(maxsize=1)
def byte_values() -> dict[str, int]:
    printable = _printable()
    others = [b for b in range(256) if b not in printable]
    return dict(zip(_byte_symbols(), [*printable, *others], strict=True))


def _printable() -> list[int]:
    return [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
