"""Whole-word vocabularies: six special ids, then the words of a file or an embedded list."""

import re
from collections.abc import Callable, Sequence

from mmjax.data.sources import clicks, moving, tones
from mmjax.data.sources.shapes import COLORS, RELATIONS, SHAPES, SIZES
from mmjax.data.text.make_tokenizer import read_file
from mmjax.data.text.text_normalization import canonicalize, truncate_text
from mmjax.data.text.tokenizer import FIELD, Tokenizer
from mmjax.errors import UserError

PAD, BOS, EOS, UNK, MASK, SEP = range(6)
SPECIALS = 6
_TOKEN = re.compile(r"<\|[a-z]+\|>")

# Of captions, questions and answers of the drawn scenes. Ids follow from the order: append, never insert.
_SHAPES_WORDS = (
    *("a", "and", "of"),
    *(relation.removesuffix(" of") for relation in RELATIONS),
    *SIZES,
    *COLORS,
    *SHAPES,
    *("the", "is", "are", "there", "what", "how", "many", "colour", "shape", "size", "object", "objects"),
    *("circles", "squares", "triangles", "crosses", "rings"),
    *("yes", "no", "0", "1", "2", "3"),
)
EMBEDDED = {
    "shapes": "\n".join(_SHAPES_WORDS).encode(),
    "moving": "\n".join(moving.VOCABULARY).encode(),
    "clicks": "\n".join(clicks.VOCABULARY).encode(),
    "tones": "\n".join(tones.WORDS).encode(),
    # Of both tasks of `tones`, with their tokens.
    "speech": "\n".join((*tones.WORDS, *tones.MEANINGS, *(f"<|{task}|>" for task in tones.TASKS))).encode(),
}


def make_words(spec: str, context_length: int, *, path: str, content: bytes | None) -> Tokenizer:
    """The tokenizer `words:PATH`.

    Raises:
      UserError: as `parse_words` does, or the file cannot be read.
    """
    if content is None:
        content = EMBEDDED[path] if path in EMBEDDED else read_file(spec, path)
    known = parse_words(content, f"{FIELD}={spec!r}")
    ids = {word: SPECIALS + i for i, word in enumerate(known)}
    encode_one = _encoder(ids)

    def encode(texts: list[str]) -> list[list[int]]:
        room = context_length - 2
        return [[BOS, *encode_one(truncate_text(text, room, encode_one))[:room], EOS] for text in texts]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=SPECIALS + len(known),
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        mask_id=MASK,
        sep_id=SEP,
        special_ids=(*range(SPECIALS), *(ids[word] for word in known if _TOKEN.fullmatch(word))),
        cleaning="no ASCII punctuation, lower case, whitespace",
        file_bytes=content,
        encode=encode,
        decode_words=lambda row: words_text(row, known),
    )


def parse_words(content: bytes, where: str) -> list[str]:
    """Reads a vocabulary: UTF-8, one word a line, in the order of ids; blank lines are left out.

    A line such as `<|translate|>` is a token, which stands for no word: texts may spell it, and none is cleaned away.

    Args:
      content: of the file.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: no UTF-8, no words, a word twice, or one that no text can hold once it is cleaned.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    seen: dict[str, int] = {}
    for line, word in enumerate(text.split("\n"), start=1):
        word = word.strip()
        if not word:
            continue
        if not _TOKEN.fullmatch(word) and (word != canonicalize(word) or len(word.split()) > 1):
            raise UserError(
                f"{where}: line {line}, {word!r}, is not one lower-case word without punctuation; correct it"
            )
        if word in seen:
            raise UserError(f"{where}: line {line}, {word!r}, is line {seen[word]} again; name it once")
        seen[word] = line
    if not seen:
        raise UserError(f"{where} holds no words; write one a line")
    return list(seen)


def _encoder(ids: dict[str, int]) -> Callable[[str], list[int]]:
    """What gives the ids of a text, of tokens that the vocabulary has, too."""
    tokens = [word for word in ids if _TOKEN.fullmatch(word)]
    if not tokens:
        return lambda text: word_ids(text, ids)
    pattern = re.compile(f"({'|'.join(map(re.escape, tokens))})")
    of_part = lambda part: [ids[part]] if part in tokens else word_ids(part, ids)
    return lambda text: [number for part in pattern.split(text) for number in of_part(part)]


def word_ids(text: str, ids: dict[str, int]) -> list[int]:
    """Ids of a text's words, UNK for those that are not in the vocabulary."""
    return [ids.get(word, UNK) for word in canonicalize(text).split()]


def words_text(ids: Sequence[int], words: Sequence[str]) -> str:
    """The words of ids, separated by spaces."""
    return " ".join(words[i - SPECIALS] for i in ids)
