"""The report is well-formed, refers to nothing outside itself, and survives hostile content."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mmjax.evaluation.example_selection import Artifacts, CaptionMatches, ImageMatches, Match
from mmjax.evaluation.results import CLASSIFICATION, RETRIEVAL, Evaluation
from mmjax.report import charts
from mmjax.report import page as page_lib

HOSTILE = "<script>alert(1)</script> \"'&$x_$ </style> \ud800"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and checks that elements close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def thumbnail(size=8):
    return np.random.default_rng(size).integers(0, 256, size=(size, size, 3), dtype=np.uint8)


def evaluations(classes=10, name="digits/test"):
    rng = np.random.default_rng(0)
    names = [f"class {i} {HOSTILE}" for i in range(classes)]
    matches = [Match(HOSTILE, 0.75, True), Match("other", 0.5, False)]
    pictures = [Match(thumbnail(), 0.75, True), Match(thumbnail(100), 0.5, False)]
    shown = [ImageMatches(thumbnail(), [HOSTILE, "second"], matches)] * 12
    captions = [CaptionMatches(HOSTILE, pictures)] * 12
    confusion = rng.integers(0, 5, size=(classes, classes))
    rates = {"acc1": 0.5, "acc5": 0.9, "mean_per_class_recall": 0.4, "loss": 1.25}
    recalls = {f"{side}_retrieval_recall@{k}": 0.25 for side in ("image", "text") for k in (1, 5, 10)}
    return [
        Evaluation(name, CLASSIFICATION, 1234, rates, Artifacts(shown, captions, confusion, names)),
        Evaluation("shapes/test", RETRIEVAL, 10, recalls, Artifacts(shown, captions)),
    ]


def history(steps=100, dataset="digits/test"):
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "kind": "train", "loss": 5 / step, "accuracy": 1 - 1 / step, "logit_scale": 14.0}
        lines.append(line | {"grad_norm": 1.0, "learning_rate": 1e-3 / step, "images_per_second": 100.0})
        if step % 10 == 0:
            lines.append({"step": step, "kind": "eval", f"{dataset}/loss": 2.0, f"{dataset}/acc1": 0.5})
    return [*lines, {"step": steps, "kind": "summary", "seconds": 12.5}]


def render(**changes):
    settings = {"title": "a run", "config": {"seed": 0}, "history": history(), "evaluations": evaluations()}
    text = page_lib.render_report(**settings | changes)
    text.encode("utf-8")
    return text, Page(text)


def check_self_contained(text, page):
    assert not re.search(r"https?://", text)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#"))
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = [value[1:] for name, value in page.attributes if name == "href"] + re.findall(r"url\(#([^)]*)\)", text)
    assert set(references) <= set(ids)


def test_a_full_report():
    text, page = render()
    check_self_contained(text, page)
    assert page.tags.count("svg") == 6
    assert page.tags.count("img") == 2 * (12 + 24)
    assert "50.00%" in page.text and "1,234" in page.text and "Most frequent mistakes" in page.text
    assert "held out" in page.text and "digits/test top-1" in page.text
    # No colour of the drawing library is left: all follow the page's theme.
    assert not re.search(r"#0[1-3]0[1-3]0\w", text)


def test_the_first_screen_tells_the_result():
    """The main rates, the loss and accuracies come before the tables and the other curves."""
    text, page = render()
    for value, metric in (("50.00%", "top-1"), ("25.00%", "text to image R@1"), ("25.00%", "image to text R@1")):
        assert f"<b>{value}</b>{metric}<span>" in text
    assert "<span>shapes/test, zero-shot retrieval</span>" in text
    shown = ("<b>50.00%</b>top-1", "<h3>Loss</h3>", "<h3>Accuracy</h3>", "<h2>Results</h2>", "<h3>Learning rate</h3>")
    assert [text.count(part) for part in shown] == [1] * 5
    assert sorted(shown, key=text.index) == list(shown)
    assert "class=tiles" not in render(evaluations=4 * evaluations())[0]  # the tables have them


def test_every_objective_has_its_curves_and_every_metric_its_name():
    lines = []
    for step in (1, 2):
        hits = {f"{name}accuracy": 0.5 for name in ("", "itm_", "mlm_")}
        losses = {f"loss_{name}": 1.0 / step for name in ("itc", "itm", "mlm")}
        lines.append({"step": step, "kind": "train", "loss": 3.0 / step, **losses, **hits})
    scores = {"image_retrieval_recall@1": 0.25, "text_retrieval_recall@1": 0.25, "contrastive_loss": 1.0}
    matched = {"itm_accuracy": 0.75, "itm_hardest_accuracy": 0.5, "itm_accuracy_match": 1.0}
    answered = {"accuracy": 0.5, "accuracy_yes/no": 0.625, "accuracy_other": 0.375}
    lines.append({"step": 2, "kind": "eval"} | {f"d/{key}": value for key, value in (scores | matched).items()})
    evaluations = [Evaluation("d", RETRIEVAL, 7, scores), Evaluation("d", "image_text_matching", 7, matched)]
    evaluations.append(Evaluation("e", "visual_question_answering", 1200, answered))
    text, page = render(history=lines, evaluations=evaluations)
    check_self_contained(text, page)
    for name in ("Loss", "Losses by objective", "Accuracy in training", "Accuracy, held out"):
        assert f"<h3>{name}</h3>" in text
    for label in (
        "d contrast, held out",
        "itm accuracy",
        "d matching, hardest",
        "7 images and 1,200 questions",
        "yes/no",
    ):
        assert label in page.text
    assert "<th>questions</th>" in text and "the hardest" in page.text and "62.50%" in page.text


def test_hostile_content_is_shown_and_not_run():
    text, page = render(
        title=HOSTILE,
        config={HOSTILE: [HOSTILE], "batch_size": 8},
        history=history(dataset=HOSTILE),
        evaluations=evaluations(name=HOSTILE),
    )
    check_self_contained(text, page)
    assert "<script" not in text.lower()
    assert text.count("</style>") == 1
    assert "<script>alert(1)</script> \"'&$x_$ </style> ?" in page.text


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 0, "kind": "train", "loss": 3.0}],
        [
            {"step": 1, "kind": "train", "loss": math.nan},
            {"step": 2, "kind": "train", "loss": None, "accuracy": math.inf},
        ],
        [{"kind": "summary", "seconds": 1.0}],
        history(3),
        history(2000),
    ],
    ids=["empty", "one point", "no number", "no step", "short", "long"],
)
def test_any_history(lines):
    text, page = render(history=lines, evaluations=[])
    check_self_contained(text, page)
    assert "Nothing was evaluated" in page.text
    assert ("svg" in page.tags) == any(isinstance(x.get("loss"), float) and math.isfinite(x["loss"]) for x in lines)
    assert len(text) < 400_000


@pytest.mark.parametrize("which", [0, 1])
def test_only_one_kind_of_source(which):
    text, page = render(evaluations=evaluations()[which : which + 1])
    check_self_contained(text, page)
    assert ("Zero-shot classification" in page.text) == (which == 0)
    assert ("Confusion" in page.text) == (which == 0)


def test_what_a_model_wrote_is_not_called_a_neighbour():
    artifacts = evaluations()[1].artifacts
    written = Artifacts(artifacts.images, [], what="captions written")
    text, page = render(history=[], evaluations=[Evaluation("shapes/test", "image_captioning", 10, {}, written)])
    check_self_contained(text, page)
    assert "Captions written: shapes/test" in page.text and "the first is right for 12 of these" in page.text
    assert "Nearest" not in page.text and "cosine" not in page.text


def test_without_artifacts():
    bare = [Evaluation("digits/test", CLASSIFICATION, 5, {"acc1": 1.0})]
    _, page = render(evaluations=bare)
    assert "img" not in page.tags and "100.00%" in page.text


def test_many_classes_are_a_picture():
    text, page = render(evaluations=evaluations(classes=100)[:1])
    check_self_contained(text, page)
    assert ("class", "matrix") in page.attributes
    assert "class 99" in page.text or "Most frequent mistakes" in page.text


def test_the_same_input_gives_the_same_page():
    assert render()[0] == render()[0]


def test_long_curves_are_thinned_without_losing_their_ends():
    lines = [{"step": step, "loss": float(step)} for step in range(10_000)]
    series = charts.make_series(lines, "loss", "training")
    assert len(series.steps) == 400
    assert series.steps[0] < 25 and series.steps[-1] > 9_975
    np.testing.assert_allclose(series.steps, series.values)
    np.testing.assert_allclose(charts.smooth([2.0] * 50), 2.0)


def test_a_table_that_is_too_wide_goes_on_below():
    """All columns are seen on a window of 1300 pixels; each row names its data set."""
    sides = ("image_retrieval", "text_retrieval")
    kinds = [f"recall@{k}" for k in (1, 5, 10)] + ["median_rank", "mean_rank", "mean_reciprocal_rank"]
    metrics = {f"{side}_{kind}": 0.5 for side in sides for kind in [*kinds, "mean_average_precision"]}
    page = page_lib.render_report(
        title="x", config={}, history=[], evaluations=[Evaluation("coco", RETRIEVAL, 5, metrics)]
    )
    tables = page.split("<table class=results>")[1:]
    assert len(tables) == 2 and page.count("<caption>Zero-shot retrieval</caption>") == 1
    for table, group in zip(tables, ("text to image", "image to text"), strict=True):
        assert group in table and "<td>coco</td>" in table
        assert table.partition("</thead>")[2].partition("</table>")[0].count("<td") == 2 + 7
