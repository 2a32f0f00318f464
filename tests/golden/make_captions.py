"""Makes captions.json: what pycocoevalcap's own programs give for caption_samples.

  python -m tests.golden.make_captions [COUNT]       needs pycocoevalcap==1.2 and Java

It prints how many of COUNT (default 5000) further samples mmjax.metrics.ptb_tokenizer tokenises
alike; the differences follow.
"""

import json
import sys
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from mmjax.metrics.ptb_tokenizer import ptb_tokenize
from tests.helpers.caption_samples import captions, nasty, random_sets


def tokenized(texts):
    result = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    return [result[i][0] for i in range(len(texts))]


def scores(candidates, references):
    """Corpus values and every example's, by mmjax's names."""
    theirs, ours = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    bleu, bleus = Bleu(4).compute_score(theirs, ours, verbose=0)
    result = {f"bleu_{n + 1}": (bleu[n], bleus[n]) for n in range(4)}
    for name, scorer in (("rouge_l", Rouge()), ("cider_d", Cider())):
        value, item = scorer.compute_score(theirs, ours)
        result[name] = float(value), item.tolist()
    return result


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    for name, make in (("captions", captions), ("nasty", nasty)):
        texts = list(make(count, seed=99))
        pairs = list(zip(texts, tokenized(texts), ptb_tokenize(texts), strict=True))
        other = [pair for pair in pairs if pair[1] != pair[2]]
        print(f"{name}: {len(pairs) - len(other)} of {len(pairs)} alike", *map(ascii, other[:20]), sep="\n  ")

    golden = {"ptb": {}}
    for name, texts in (("captions", list(captions(300, seed=1))), ("nasty", list(nasty(300, seed=2)))):
        golden["ptb"][name] = [texts, tokenized(texts)]
    golden["scores"] = [[*captions, scores(*captions)] for captions in random_sets(25, seed=3)]
    references = [["a man is speaking", "a man speaks", "someone speaks"], ["rain falls on a roof", "heavy rain falls"]]
    references += [["a dog runs on grass"], ["a caf\u00e9 at night", "the coffee shop"], ["a b"]]
    candidates = ["a man is speaking", "rain falls", "a cat sleeps", "caf\u00e9", ""]
    complete, item = Meteor().compute_score(dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)})
    golden["meteor"] = {"candidates": candidates, "references": references, "score": complete, "each": item}
    text = json.dumps(golden, separators=(",", ":"))
    (Path(__file__).parent / "captions.json").write_text(text + "\n")
    print(len(text), "bytes")


if __name__ == "__main__":
    main()
