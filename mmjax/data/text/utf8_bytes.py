"""UTF-8 bytes as ids."""

from mmjax.data.text.tokenizer import Tokenizer


def make_bytes(spec: str, context_length: int) -> Tokenizer:
    """The tokenizer `bytes`."""
    pad, bos, eos = 256, 257, 258
    room = context_length - 2

    def encode(texts: list[str]) -> list[list[int]]:
        # A character is at least one byte, so that no more words and characters than bytes can count.
        heads = [" ".join(text.split(None, room)[:room])[:room] for text in texts]
        return [[bos, *head.encode("utf-8", "replace")[:room], eos] for head in heads]

    return Tokenizer(
        spec=spec,
        context_length=context_length,
        vocab_size=259,
        bos_id=bos,
        eos_id=eos,
        pad_id=pad,
        special_ids=(pad, bos, eos),
        cleaning="whitespace",
        encode=encode,
        decode_words=lambda ids: bytes(ids).decode("utf-8", "replace"),
    )
