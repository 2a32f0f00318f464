"""Caption metrics against pycocoevalcap's and sacrebleu's scores."""

import json

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.metrics import caption_metrics
from tests.helpers import runs
from tests.helpers.caption_samples import random_sets

GOLDEN = json.loads((runs.ROOT / "tests/golden/captions.json").read_text())["scores"]
REFERENCES = [["a man is speaking", "a man speaks", "someone speaks"], ["rain falls on a roof", "heavy rain falls"]]
REFERENCES += [["a dog runs on grass"]]
CANDIDATES = ["a man is speaking", "rain falls", "a cat sleeps"]


def check(candidates, references, expected):
    result = caption_metrics.score_captions(candidates, references, tokenized=True)
    for name, (corpus, examples) in expected.items():
        assert result.metrics[name] == pytest.approx(corpus, abs=1e-9), name
        np.testing.assert_allclose(result.examples[name], examples, rtol=0, atol=1e-9, err_msg=name)


def test_known_values():
    result = caption_metrics.score_captions(CANDIDATES, REFERENCES)
    expected = {"bleu_1": 0.5573021303, "bleu_2": 0.5159615138, "bleu_3": 0.5028743799, "bleu_4": 0.5494186856}
    expected |= {"rouge_l": 0.6704558617, "cider_d": 2.4383587823935606, "exact_match": 1 / 3}
    assert result.metrics == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(result.examples["cider_d"], [4.00436228, 3.31071406, 0], atol=1e-8)
    assert caption_metrics.caption_metrics(CANDIDATES, REFERENCES) == result.metrics


def test_random_sets_score_as_by_pycocoevalcap():
    for candidates, references, expected in GOLDEN:
        check(candidates, references, expected)


@pytest.mark.full
def test_500_random_sets_score_as_by_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    for candidates, references in random_sets(500, seed=7):
        theirs, ours = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
        bleu, bleus = Bleu(4).compute_score(theirs, ours, verbose=0)
        expected = {f"bleu_{n + 1}": (bleu[n], bleus[n]) for n in range(4)}
        expected |= {"rouge_l": Rouge().compute_score(theirs, ours), "cider_d": Cider().compute_score(theirs, ours)}
        check(candidates, references, expected)


@pytest.mark.full
def test_bleu_agrees_with_sacrebleu():
    import sacrebleu

    for candidates, references in random_sets(60, seed=8):
        # sacrebleu wants the same number of references everywhere; a repeated one changes nothing.
        most = max(map(len, references))
        streams = [[texts[min(i, len(texts) - 1)] for texts in references] for i in range(most)]
        settings = {"smooth_method": "none", "tokenize": "none", "force": True}
        result = caption_metrics.bleu(candidates, references)[0]
        for order in range(1, 5):
            scorer = sacrebleu.metrics.BLEU(max_ngram_order=order, **settings)
            expected = scorer.corpus_score(candidates, streams).score / 100
            assert expected == 0 or result[f"bleu_{order}"] == pytest.approx(expected, abs=1e-6)


def test_raw_captions_are_tokenised():
    result = caption_metrics.caption_metrics(["A man is speaking!", "Rain falls.", "a cat sleeps"], REFERENCES)
    assert result == pytest.approx(caption_metrics.caption_metrics(CANDIDATES, REFERENCES))


@pytest.mark.parametrize(
    "candidates, references, message",
    [
        ([], [], "0 candidates"),
        (["a"], [], "1 candidates with 0 lists"),
        (["a", "b"], [["a"], []], r"references\[1\] is empty"),
        (["a"], ["a"], "plain string"),
    ],
)
def test_mistakes_are_told(candidates, references, message):
    with pytest.raises(UserError, match=message):
        caption_metrics.caption_metrics(candidates, references)
