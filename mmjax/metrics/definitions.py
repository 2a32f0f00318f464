"""Definitions of metrics, a line each, as tables of results beside weights have them; docs/evaluation.md has more."""

import re

_DEFINITIONS = {
    r"acc1": "share of examples whose class is the most probable one",
    r"acc5": "share of examples whose class is among the five most probable",
    r"acc1_low95|acc1_high95": "95 % interval of acc1 by resampling the examples",
    r"(?P<name>[\w@]+)_area@(?P<kind>\w+:\S+)": "mean of {name} over the levels of {kind}, by trapezoids",
    r"(?P<name>[\w@]+)@(?P<kind>\w+:\S+)": "{name} of examples corrupted by {kind}",
    r"acc1_without_(?P<name>\w+)": "acc1 without {name}",
    r"acc1_only_(?P<name>\w+)": "acc1 by {name} alone",
    r"acc1@(?P<k>\d+)": "share of examples whose class most of the {k} nearest neighbours have",
    r"mean_per_class_recall": "mean over classes of the share of their examples that is found: balanced accuracy, UAR",
    r"macro_f1": "mean over classes of F1, the harmonic mean of precision and recall",
    r"auroc": "area under the ROC curve of each class's probability against the rest, mean over classes",
    r"mean_average_precision": "mean over classes of average precision, without interpolation",
    r"image_retrieval_recall@(?P<k>\d+)": "share of captions whose image is one of the {k} most similar of all images",
    r"text_retrieval_recall@(?P<k>\d+)": "share of images with a caption among the {k} most similar of all captions",
    r"(?P<name>\w+)_retrieval_recall@(?P<k>\d+)": "share of queries whose {name} is one of the {k} most similar",
    r"mean_recall@1": "mean of both directions' recall@1",
    r"rsum": "sum of the six recalls, at most 6",
    r"(?P<name>\w+)_median_rank": "median rank of the best match in {name}, from 1",
    r"(?P<name>\w+)_mean_rank": "mean rank of the best match in {name}, from 1",
    r"(?P<name>\w+)_mean_reciprocal_rank": "mean of 1 / rank of the best match in {name}",
    r"(?P<name>\w+)_mean_average_precision": "mean average precision over all matches in {name}",
    r"bleu_(?P<k>[1-4])": "BLEU-{k} of the whole set, as pycocoevalcap computes it",
    r"rouge_l": "ROUGE-L, as pycocoevalcap computes it",
    r"cider_d": "CIDEr-D from 0 to 10, as pycocoevalcap computes it",
    r"meteor": "METEOR 1.5, by its own program",
    r"exact_match": "share of captions that equal a reference after tokenisation",
    r"wer": "word error rate: substitutions, deletions and insertions by words of the references",
    r"cer": "character error rate, of letters and single spaces",
    r"(?P<name>substitution|deletion|insertion)_rate": "{name}s by words of the references",
    r"sentence_accuracy": "share of transcripts without an error",
    r"accuracy(_\w+/?\w*)?": "VQA v2's accuracy: min(n / 3, 1), averaged over subsets of nine people",
    r"offset_accuracy": "share of clips whose offset between video and sound is told within one frame",
    r"offset_accuracy_exact": "share of clips whose offset between video and sound is told exactly",
    r"offset_error": "mean absolute error of the offset between video and sound, in frames",
    r"chance_(?P<name>offset_\w+)": "{name} of the best constant answer",
    r"si_sdr": "scale-invariant ratio of a separated sound to its distortion, in dB",
    r"sdr|sir|sar": "BSS Eval 3: ratio of a separated sound to all distortion, interference, or artifacts, in dB",
    r"(?P<name>si_sdr|sdr)_improvement": "{name} of the separated sound less that of the mixture, in dB",
    r"silent_mixtures": "mixtures with a silent sound, which have no value",
    r"infinite_mixtures": "mixtures with an infinite value, as where a separated sound is silent; means leave them out",
    r"itm_(hardest_|uniform_)?accuracy": "share of image-text pairs, matching or not, that are classified rightly",
    r"itm_(hardest_|uniform_)?balanced_accuracy": "mean of the accuracies on matching and on mismatched pairs",
    r"itm_(hardest_|uniform_)?accuracy_(?P<name>\w+)": "accuracy on {name} pairs of image and text",
    r"acc|acc_(?P<name>\w+)": "share of examples whose right caption scores higher than the wrong one, strictly",
    r"text_acc": "share of examples whose texts are both matched to the right image, strictly",
    r"image_acc": "share of examples whose images are both matched to the right text, strictly",
    r"mean_category_acc": "mean over categories of acc",
    r"mlm_accuracy": "share of hidden words that are predicted",
    r"(?P<k>\d+)way_(?P<n>\d+)shot_(acc1|accuracy)": "accuracy among {k} classes of {n} examples, mean of episodes",
    r"inverse_l2": "inverse strength of the L2 penalty that was chosen",
    r"converged": "1 where the fit ended by its tolerance",
    r"(contrastive_)?loss": "held-out loss in nats",
    r"clip_score|ref_clip_score": "CLIPScore (Hessel et al. 2021)",
    r"perplexity": "exp of the mean negative log-likelihood of a token",
    r"linear_probe/?\w*|knn/?\w*": "accuracy of a classifier of the frozen features",
}


def definition(metric: str) -> str:
    """What a metric is, as a line; an empty string for one of a plugin, or that is in no table."""
    folds = re.match(r"(\d+)x(\d+)_", metric)
    name = metric[folds.end() :] if folds else metric
    for pattern, text in _DEFINITIONS.items():
        if match := re.fullmatch(pattern, name):
            text = text.format(**match.groupdict())
            return f"{text}; mean of {folds[1]} folds of {folds[2]}" if folds else text
    return ""
