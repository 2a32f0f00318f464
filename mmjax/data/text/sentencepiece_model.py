"""SentencePiece models, by SigLIP's convention."""

from mmjax.data.text.make_tokenizer import read_file
from mmjax.data.text.text_normalization import canonicalize, truncate_text
from mmjax.data.text.tokenizer import FIELD, Tokenizer
from mmjax.errors import UserError
from mmjax.utils.optional_imports import require


def make_sentencepiece(spec: str, context_length: int, *, path: str, content: bytes | None) -> Tokenizer:
    """The tokenizer `sentencepiece:PATH`.

    Raises:
      UserError: the package is missing, the file cannot be read, or it is not a model with an end of text.
    """
    content = read_file(spec, path) if content is None else content
    sentencepiece = require("sentencepiece", extra="sentencepiece", where=f"{FIELD}={spec!r}")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise UserError(f"{FIELD}={spec!r} is not a sentencepiece model; give a *.model file") from error
    eos = model.eos_id()
    if eos < 0:
        raise UserError(f"{FIELD}={spec!r} has no end-of-text piece; train the model with eos_id >= 0")

    def encode_one(text: str) -> list[int]:
        return model.EncodeAsIds(canonicalize(text))

    def encode(texts: list[str]) -> list[list[int]]:
        room = context_length - 1
        return [[*encode_one(truncate_text(text, room, encode_one))[:room], eos] for text in texts]

    size = model.GetPieceSize()
    no_words = [i for i in range(size) if model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i)]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=size,
        bos_id=None,
        eos_id=eos,
        pad_id=eos,
        special_ids=tuple(no_words),
        cleaning="no ASCII punctuation, lower case, whitespace",
        file_bytes=content,
        encode=encode,
        decode_words=model.DecodeIds,
    )
