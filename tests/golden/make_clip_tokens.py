"""Makes data/clip_tokens.npz: 5,000 strings and their ids by OpenCLIP's own SimpleTokenizer.

    pip install open_clip_torch ftfy regex && python -m tests.golden.make_clip_tokens

The strings are stored, so that the test needs neither OpenCLIP nor this generator. Characters are those that Unicode 14
assigns: later ones are letters to one library and unknown to another.
"""

import html.entities
import random
import string
import unicodedata
from pathlib import Path

import numpy as np

PATH = Path(__file__).parent / "data/clip_tokens.npz"
COUNT, SEED = 5000, 20240229
SCRIPTS = [
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x250, 0x36F),
    (0x370, 0x52F),
    (0x531, 0x6FF),
    (0x900, 0xDFF),
    (0xE00, 0x11FF),
    (0x1E00, 0x20CF),
    (0x2100, 0x27BF),
    (0x3000, 0x33FF),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFFFD),
    (0x10000, 0x10FFF),
    (0x1D400, 0x1D7FF),
    (0x1F000, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0, 0x10FFFF),
]
SPECIAL = ("<start_of_text>", "<end_of_text>")  # OpenCLIP gives these its special ids, mmjax does not
PIECES = [
    "İstanbul",
    "STRASSE ẞ ß",
    "'ſ K Å ﬁ ﬆ",
    "it's WE'LL they'RE i'd 'm",
    "<|endoftext|>",
    "</w>",
    "\ufeff",
    "\x00",
    "\x1b[31m",
]
PIECES += [
    "👩\u200d👩\u200d👧",
    "🏳️\u200d🌈",
    "🇩🇪🇯🇵",
    "👍🏽",
    "❤️",
    "1️⃣",
    "e\u0301",
    "\u0301",
    "ᄒ\u1161ᆫ",
    "½²Ⅷ٣１２",
    "\u2028\x85\x0b\x0c\x1c",
]
PIECES += [
    "&amp;amp;lt;b&amp;gt;",
    "&#39;&#x1F431;&#0;&#128;&#xD800;",
    "&notit; &AMP &amp",
    "<b>&eacute;</b>",
    "\ud800",
    "\udfff\ud83d",
]
PIECES += [
    "a_b-c/d\\e",
    "$1,234.56",
    "http://x.y/z?q=1&r=2#s",
    "@user #tag",
    "...!!!???",
    "“‘’”„…—–",
    "\xad\u200b\u2060\u202e",
    "\r\n",
]


class Generator:
    def __init__(self, words, seed):
        self.rng = random.Random(seed)
        self.words = words

    def word(self):
        """A word of the vocabulary, frequent ones more often, in some case."""
        word = self.words[int(len(self.words) * self.rng.random() ** 2)]
        return self.rng.choice([word, word, word, word.title(), word.upper()])

    def character(self):
        low, high = self.rng.choice(SCRIPTS)
        while True:
            c = chr(self.rng.randint(low, high))
            if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
                return c

    def entity(self):
        name = self.rng.choice(sorted(html.entities.html5))
        return self.rng.choice([f"&{name}", f"&amp;{name}", f"&#{self.rng.randint(0, 70000)};"])

    def mojibake(self):
        text = "".join(self.rng.choice("äöüßéèñçøåœ€’“”–…日本привет🐱") for _ in range(self.rng.randint(1, 6)))
        for _ in range(self.rng.choice([1, 1, 2])):
            text = text.encode().decode(self.rng.choice(["latin-1", "cp1252", "cp437"]), "ignore")
        return text

    def piece(self):
        kind = self.rng.random()
        if kind < 0.5:
            return self.word()
        if kind < 0.6:
            return str(self.rng.randint(0, 10**6))
        if kind < 0.7:
            return "".join(self.character() for _ in range(self.rng.randint(1, 8)))
        if kind < 0.77:
            return "".join(self.rng.choice(string.punctuation) for _ in range(self.rng.randint(1, 4)))
        return self.rng.choice([self.entity, self.mojibake, lambda: self.rng.choice(PIECES)])()

    def space(self):
        return self.rng.choice([" "] * 12 + ["", "", ", ", ". ", "\n", "\t", "  ", "\xa0", "\u3000"])

    def text(self):
        kind = self.rng.random()
        if kind < 0.45:  # a caption
            return " ".join(self.word() for _ in range(self.rng.randint(1, 16)))
        if kind < 0.9:
            return "".join(self.piece() + self.space() for _ in range(self.rng.randint(1, 10)))
        if kind < 0.94:
            return "".join(chr(self.rng.randint(0, 127)) for _ in range(self.rng.randint(0, 60)))
        if kind < 0.99:
            return "".join(self.character() for _ in range(self.rng.randint(1, 30)))
        return self.long()

    def long(self):
        """Thousands of characters, of which the first 75 ids count: a few parts again and again."""
        parts = [self.piece() + self.space() for _ in range(self.rng.randint(1, 12))]
        return "".join(self.rng.choice(parts) for _ in range(self.rng.randint(200, 3000)))


def vocabulary():
    import open_clip.tokenizer

    symbols = list(open_clip.tokenizer._tokenizer.encoder)
    return [s[:-4] for s in symbols if s.endswith("</w>") and s[:-4].isascii() and s[:-4].isalpha() and len(s) > 5]


def main():
    import open_clip.tokenizer

    generator = Generator(vocabulary(), SEED)
    texts = ["", " ", "a photo of a cat", *PIECES]
    texts += [generator.text() for _ in range(COUNT - len(texts))]
    assert not any(special in text.lower() for text in texts for special in SPECIAL)
    ids = open_clip.tokenizer.SimpleTokenizer()(texts, context_length=77).numpy().astype(np.uint16)
    lengths = 1 + ids.argmax(1)
    content = [text.encode("utf-8", "surrogatepass") for text in texts]
    np.savez_compressed(
        PATH,
        text=np.frombuffer(b"".join(content), np.uint8),
        text_lengths=np.array([len(c) for c in content], np.uint32),
        ids=np.concatenate([row[:length] for row, length in zip(ids, lengths, strict=True)]),
        id_lengths=lengths.astype(np.uint8),
    )
    print(f"{len(texts)} strings, {PATH.stat().st_size} bytes; {sum(lengths == 77)} fill the context")


if __name__ == "__main__":
    main()
