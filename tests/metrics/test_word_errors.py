"""Word and character error rates by jiwer, and Whisper's normalisation by transformers'."""

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.metrics import word_errors

WORDS = ("the", "the", "a", "cat", "cats", "sat", "naïve", "猫", "да", "don't", "x", "E", "é")


def random_pairs(count, seed=0):
    """References of 1 to 12 words with words changed, left out, put in, repeated; some hypotheses are empty."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        reference = rng.choice(WORDS, rng.integers(1, 13)).tolist()
        hypothesis = [str(rng.choice(WORDS)) if rng.random() < 0.2 else word for word in reference]
        hypothesis = [word for word in hypothesis for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        hypothesis += rng.choice(WORDS, rng.integers(0, 3)).tolist()
        pairs.append((" ".join(reference), "" if rng.random() < 0.05 else " ".join(hypothesis)))
    return pairs


def brute_force(reference, hypothesis):
    """The least number of edits, by its recursion."""
    table = {}
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            options = [] if i or j else [0]
            options += [table[i - 1, j] + 1] if i else []
            options += [table[i, j - 1] + 1] if j else []
            options += [table[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1])] if i and j else []
            table[i, j] = min(options)
    return table[len(reference), len(hypothesis)]


def test_alignments_have_the_fewest_edits_and_all_words_in_order():
    for reference, hypothesis in random_pairs(100):
        pairs = word_errors.align(reference.split(), hypothesis.split())
        assert [word for word, _ in pairs if word is not None] == reference.split()
        assert [word for _, word in pairs if word is not None] == hypothesis.split()
        counts = word_errors.count_edits(pairs)
        assert counts.errors == brute_force(reference.split(), hypothesis.split())
        assert counts.length == len(reference.split())


def test_rates_are_of_all_words_and_not_means_of_sentences():
    scores = word_errors.score_transcripts(["a b c d", "e"], ["a x c", "e f"])
    assert scores.words == word_errors.Edits(hits=3, substitutions=1, deletions=1, insertions=1)
    assert scores.alignments[0] == [("a", "a"), ("b", "x"), ("c", "c"), ("d", None)]
    metrics = scores.metrics
    assert metrics["wer"] == 3 / 5 and metrics["sentence_accuracy"] == 0
    assert metrics["substitution_rate"] == metrics["deletion_rate"] == metrics["insertion_rate"] == 1 / 5
    assert metrics["cer"] == (1 + 2 + 2) / (7 + 1)  # of "a b c d" a letter and " d", and " f"


def test_an_empty_reference_has_insertions_and_a_set_of_them_no_rate():
    scores = word_errors.score_transcripts(["", "a"], ["b c", "a"])
    assert scores.words == word_errors.Edits(hits=1, insertions=2) and scores.metrics["wer"] == 2
    with pytest.raises(ValueError, match="2 references without a word"):
        word_errors.score_transcripts(["", " "], ["a", ""])


def test_normalisation_is_a_choice():
    strict = word_errors.score_transcripts(["Don't  stop. "], ["don't stop"])
    assert strict.metrics["wer"] == 1
    basic = word_errors.score_transcripts(["Don't stop. "], ["don't [noise] stop"], "basic")
    assert basic.metrics["wer"] == 0 and basic.alignments[0][:2] == [("don", "don"), ("t", "t")]
    assert word_errors.normalize_transcript("a([)ba])", "basic") == "a"
    with pytest.raises(UserError, match="normalization='english' is not known"):
        word_errors.normalize_transcript("a", "english")


@pytest.mark.full
@pytest.mark.parametrize("unit", ["words", "characters"])
def test_counts_are_jiwers_on_random_pairs(unit):
    jiwer = pytest.importorskip("jiwer")
    pairs = random_pairs(1000, seed=1)
    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    for reference, hypothesis in pairs:
        result = process(reference, hypothesis)
        items = (reference.split(), hypothesis.split()) if unit == "words" else (reference, hypothesis)
        counts = word_errors.count_edits(word_errors.align(*items))
        expected = (result.hits, result.substitutions, result.deletions, result.insertions)
        assert counts == expected, (reference, hypothesis)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    scores, total = word_errors.score_transcripts(references, hypotheses), process(references, hypotheses)
    assert scores.metrics["wer" if unit == "words" else "cer"] == getattr(total, "wer" if unit == "words" else "cer")
    assert tuple(getattr(scores, unit)) == (total.hits, total.substitutions, total.deletions, total.insertions)


@pytest.mark.full
def test_basic_is_whispers_normaliser():
    normalizer = pytest.importorskip("transformers.models.whisper.english_normalizer").BasicTextNormalizer()
    texts = (
        *("Hello, World!", "<|en|> a [noise] b (laughs) c", "Ça coûte 5 € — non?", "ﬁne ½ Ⅷ", "猫。 [", "İstanbul ǅ"),
        *("a\u0301b e\u0300", "no-one's", "\ttabs\nand  spaces ", "()", "( ) x", "हिन्दी", "x_y <b", "", "🙂 ok"),
    )
    rng = np.random.default_rng(0)
    brackets = ["".join(rng.choice(list("ab <>[]()"), rng.integers(1, 15))) for _ in range(5000)]
    for text in (*texts, "a([)ba])", *brackets):
        assert word_errors.normalize_transcript(text, "basic") == normalizer(text).strip(), text
