"""Writes docs/loads.md from the tables that the readers of other libraries' files use: what loads, and what does not.

python scripts/loads_page.py            rewrites the page
python scripts/loads_page.py --check    says whether the page is what the tables give
"""

import collections
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmjax.interop import media_configs, named_models, openclip_image, timm_towers
from mmjax.interop.families.table import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "loads.md"
_LIVE = "tests/interop"


class Row(NamedTuple):
    """A family of models, as the page has it: the library's name of it, what mmjax makes of it, and how it is tested.

    Attributes:
      classes: what the library calls it.
      kind: `model.kind` here, or the slot that a tower fills.
      written: the flag of `mmjax convert` that writes it.
      test: the file that compares it with the library's own model.
    """

    classes: str
    kind: str
    written: str
    test: str


# Of a family's architecture: the test that runs the class itself beside ours.
_FAMILY_TEST = f"{_LIVE}/families/test_family_live.py"
TESTS = {
    "LlavaForConditionalGeneration": f"{_LIVE}/families/test_language_model_live.py",
    "ChineseCLIPModel": f"{_LIVE}/families/test_clip_live.py",
    "MetaClip2Model": f"{_LIVE}/families/test_clip_live.py",
    "PaliGemmaForConditionalGeneration": f"{_LIVE}/families/test_language_model_live.py",
    "Blip2ForConditionalGeneration": f"{_LIVE}/families/test_language_model_live.py",
    **{
        family.architecture: f"{_LIVE}/families/test_lone_tower_live.py"
        for family in FAMILIES
        if family.settings.get("fusion", {}).get("kind") == "alone"
    },
}
TWO_TOWERS = [
    Row("`CLIPModel`", "`two_tower`", "`--to=hf`", f"{_LIVE}/test_export_live.py"),
    Row("`SiglipModel`, SigLIP 2 of fixed resolution", "`two_tower`", "`--to=hf`", f"{_LIVE}/test_export_live.py"),
]
OTHERS = [
    Row("OpenAI's CLIP, its TorchScript archives", "`two_tower`", "`--to=openclip`", f"{_LIVE}/test_torch_file.py"),
    Row("ALBEF's own files, `.pth`, for pretraining and retrieval", "`albef`", "-", f"{_LIVE}/test_albef_files.py"),
    Row("big_vision's SigLIP, `.npz`", "`two_tower`", "`--to=big_vision`", f"{_LIVE}/test_big_vision.py"),
]
TIMM = [
    Row(
        "plain ViTs, CLIP's among them, DINOv2 with and without registers; `config.json` and weights",
        "`fused`",
        "`--to=hf` as a class of transformers that computes the same",
        f"{_LIVE}/families/test_timm_vit_live.py",
    ),
]
# How OpenCLIP's names of models that are not read begin, what they are, and why they are left out.
_REFUSED = (
    (r"ViTamin-", "ViTamin", "its tower is convolutions and a transformer"),
    (r"MobileCLIP", "MobileCLIP", "FastViT, and ViTs behind a convolutional stem"),
    (r"mt5-|nllb-", "mT5, NLLB", "text towers with relative positions, of an encoder with a decoder"),
    (r"swin_", "Swin", "attention in windows"),
    (r"vit_relpos_", "ViT with relative positions", "relative positions"),
    (r"coca_roberta", "CoCa of RoBERTa", "its texts see what comes later, so that it cannot write them"),
)


def hugging_face() -> Iterator[Row]:
    """Rows of transformers' classes."""
    yield from TWO_TOWERS
    for family in FAMILIES:
        test = TESTS.get(family.architecture, _FAMILY_TEST)
        yield Row(f"`{family.architecture}`", f"`{family.settings['kind']}`", "`--to=hf`", test)
    yield Row(
        "the towers of `OwlViTModel`, `OwlViTForObjectDetection`",
        "`two_tower`",
        "`--to=hf` as a `CLIPModel`",
        f"{_LIVE}/families/test_clip_live.py",
    )
    for form in media_configs.FORMATS.values():
        slots = " and ".join(f"`{slot}`" for slot in form.settings)
        test = f"{_LIVE}/test_media_towers_live.py"
        yield Row(f"`{form.headed}`, `{form.bare}`", f"a tower of {slots}", "`media_towers.write_tower`", test)


def openclip_names() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """OpenCLIP's names of models: those that are read by their towers, and the others by why they are not."""
    read: dict[str, list[str]] = collections.defaultdict(list)
    refused: dict[str, list[str]] = collections.defaultdict(list)
    for name, entry in named_models.configs().items():
        if isinstance(entry, str):
            refused[_reason(name, entry)].append(name)
            continue
        model = entry["model_cfg"]
        image = openclip_image.of_config(model["vision_cfg"])
        text = "CoCa" if "multimodal_cfg" in model else "text of BERT's kind" if _of_bert(model) else ""
        read[f"`{image}`" + (f", {text}" if text else "")].append(name)
    return read, refused


def _unlisted_towers(read: Iterable[str]) -> dict[str, list[str]]:
    """timm's names by kinds of towers that no model of OpenCLIP's list has."""
    towers: dict[str, list[str]] = collections.defaultdict(list)
    for name, (kind, _) in timm_towers.TOWERS.items():
        if f"`{kind}`" not in read:
            towers[f"`{kind}`"].append(name)
    return towers


def _of_bert(model: dict) -> bool:
    return bool(model["text_cfg"].get("hf_model_name"))


def _reason(name: str, why: str) -> str:
    return next((f"{title}: {reason}" for sign, title, reason in _REFUSED if re.match(sign, name)), why)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page() -> str:
    """The page."""
    read, refused = openclip_names()
    count, total = sum(map(len, read.values())), sum(map(len, (*read.values(), *refused.values())))
    head = ("class or file", "here", "written by", "compared in")
    rows = lambda items: [(row.classes, row.kind, row.written, f"`{row.test}`") for row in items]
    names = lambda items: ", ".join(f"`{name}`" for name in sorted(items, key=str.lower))
    of_names = lambda items: [(kind, str(len(part)), names(part)) for kind, part in sorted(items.items())]
    return f"""# What loads

Models of other libraries that `mmjax.load`, `mmjax info`, `eval`, `convert` and `config.init_from` read. Each is
compared with the library's own model of random weights: embeddings, logits and written ids within 1e-5, and what mmjax
writes is loaded there strictly. How it is used: [interop.md](interop.md). Towers of video and sound, and bare models
that can do nothing by themselves, are for `config.init_from`.
This page is written from the readers' own tables by `scripts/loads_page.py`.

## transformers

{_table(head, rows(hugging_face()))}

## timm

{_table(head, rows(TIMM))}

## OpenAI, ALBEF, big_vision

{_table(head, rows(OTHERS))}

## OpenCLIP

{count} of open_clip 3.3's {total} model configs are read, and written by `--to=openclip`. The campaign
`python -m campaigns.openclip_configs` makes each of them with open_clip at reduced depth and vocabulary, compares
embeddings, writes it back and compares again; a sample of them runs in the full tests.

{_table(("image tower", "models", "names"), of_names(read))}

Towers of timm's that none of these has, by `timm_model_name` (DINOv2's, for [LiT](../configs/lit.py)); compared in
`{_LIVE}/test_timm_dinov2_live.py`:

{_table(("image tower", "towers", "names"), of_names(_unlisted_towers(read)))}

Not read, and named as such in one line:

{_table(("why", "models", "names"), of_names(refused))}
"""


def main(argv: list[str]) -> int:
    """Writes or checks the page."""
    if argv == ["--check"]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
