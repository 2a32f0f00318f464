"""scripts/docs_pictures.py, of a run that was never trained."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mmjax.evaluation.example_selection import Artifacts, AttentionPanels, CaptionMatches, ImageMatches, Match, Panel
from mmjax.evaluation.results import RETRIEVAL, Evaluation
from mmjax.report import page
from scripts import docs_pictures

ROOT = Path(__file__).parent.parent
LARGEST = 150_000  # bytes of a picture


def picture(shade, size=32):
    return np.full((size, size, 3), shade, np.uint8)


@pytest.fixture
def run(tmp_path):
    """The files of a workdir that the pictures are drawn from."""
    nearest = [[Match(picture(20 * i), 0.9 - i / 10, i == 1) for i in range(5)]] * 4
    captions = [CaptionMatches(f"caption {i} & more", matches) for i, matches in enumerate(nearest)]
    maps = [Panel(picture(40, 64), "image"), Panel(picture(80, 64), "own text", "cosine 0.5: a <circle>")]
    images = [ImageMatches(picture(9), ["caption"], [Match("caption", 0.5, True)])]
    artifacts = Artifacts(images, captions, attention=[AttentionPanels(maps, [])] * 3)
    shapes = Evaluation("shapes", RETRIEVAL, 5, {"image_retrieval_recall@1": 0.5}, artifacts)
    text = page.render_report(title="a run", config={}, history=[], evaluations=[shapes])
    lines = [{"step": step, "kind": "train", "loss": 1 / step, "accuracy": 0.5} for step in (1, 2, 3)]
    held_out = dict.fromkeys(docs_pictures._HELD_OUT, 0.25)
    held_out |= {f"sensors/{key}": 0.5 for key in docs_pictures._FUSION}
    lines.append({"step": 3, "kind": "eval"} | held_out)
    config = {"model": {"fusion": {"kind": "joint"}, "modality_dropout": 0.3}}
    (tmp_path / "report.html").write_text(text)
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_all_pictures_of_a_run(run):
    docs_pictures.main([f"--run={run}", f"--fusion={run}", f"--output={run / 'pictures'}"])
    curves, fusion = (
        "".join(ElementTree.parse(run / "pictures" / f"{name}.svg").getroot().itertext())
        for name in ("curves", "fusion")
    )
    assert "scenes, text to image R@1: 25.0%" in curves and "contrastive loss" in curves
    assert "joint, modality dropout 0.3" in fusion and "without series" in fusion and fusion.count("50.0") == 7
    for name in ("retrieval", "attention"):
        assert np.asarray(Image.open(run / "pictures" / f"{name}.png")).std() > 1


def test_what_is_drawn_is_read_from_the_report(run):
    figures = docs_pictures._figures((run / "report.html").read_text())
    assert len(figures) == 4 * 5 + 3 * 2
    assert figures[0][1] == "0.900" and figures[0][0].getpixel((0, 0)) == (0, 0, 0)
    assert figures[-1][1] == "own text\ncosine 0.5: a <circle>"


def test_a_report_without_examples_is_named(run):
    (run / "report.html").write_text("<h2>Results</h2>")
    with pytest.raises(SystemExit, match="report.html has no section 'Nearest images: shapes'"):
        docs_pictures.main([f"--run={run}", f"--fusion={run}", f"--output={run / 'pictures'}"])


def test_pictures_of_the_docs_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg")]
    assert len(pictures) >= 6
    assert not [path.name for path in pictures if path.stat().st_size > LARGEST]
