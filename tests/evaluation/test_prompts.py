"""Published class names and templates, those of a person's own, and which of them a source is evaluated with."""

import json
import re
from pathlib import Path

import pytest

from mmjax import data
from mmjax.data.formats.class_records import FOLDER_TEMPLATES
from mmjax.data.formats.input_files import TEMPLATES
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, prompts
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.evaluators.zero_shot import class_prompts

COUNTS = {  # classes and templates: Table 9 of Radford et al. 2021, and the lists of CLIP_benchmark
    "imagenet1k": (1000, 80),
    "imagenet-a": (200, 80),
    "imagenet-o": (200, 80),
    "imagenet-r": (200, 80),
    "cifar10": (10, 18),
    "cifar100": (100, 18),
    "food101": (101, 1),
    "pets": (37, 1),
    "flowers": (102, 1),
    "dtd": (47, 8),
    "eurosat": (10, 3),
    "mnist": (10, 1),
    "caltech101": (102, 34),
    "cars": (196, 8),
    "fgvc_aircraft": (100, 2),
    "sun397": (397, 2),
    "voc2007": (20, 1),
    "stl10": (10, 2),
    "gtsrb": (43, 3),
    "svhn": (10, 6),
    "country211": (211, 5),
    "resisc45": (45, 4),
    "fer2013": (7, 6),
    "pcam": (2, 2),
    "esc50": (50, 1),
    "ucf101": (101, 1),
    "kinetics400": (400, 1),
}


class Source:
    def __init__(self, name, class_names, templates=FOLDER_TEMPLATES):
        self.name, self.class_names, self.templates = name, class_names, templates

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": b"", "captions": ["x", "y"], "id": index, "label": index}


@pytest.mark.parametrize("name", prompts.known())
def test_every_list_is_whole_and_says_where_it_is_from(name):
    result = prompts.load(name)
    assert (len(result.class_names), len(result.templates)) == COUNTS.get(
        name, (len(result.class_names), len(result.templates))
    )
    assert not any("_" in class_name for class_name in result.class_names)
    assert (
        all(class_name.strip() for class_name in result.class_names) or name == "clevr_closest_object_distance"
    )  # " shapes."
    assert len(result.codes) in (0, len(result.class_names))
    # Only ImageNet has names twice, as OpenAI left them.
    assert len(set(result.class_names)) >= len(result.class_names) - 2 * name.startswith("imagenet")
    cited = re.findall(r"(?:dataset|clip-benchmark 1|mteb 2|laion-clap 1|torchvision 0)", result.origin)
    assert cited and "templates: " in result.origin
    class_prompts(result.class_names, result.templates)  # every template has a {c}


def test_all_wanted_are_there_with_their_licences():
    assert set(COUNTS) <= set(prompts.known())
    folder = Path(data.__file__).parent / "classes"
    for licence in ("clip-benchmark", "open-clip"):
        assert "Permission is hereby granted" in (folder / f"LICENSE-{licence}").read_text()
    for licence in ("tensorflow-datasets", "mteb"):
        assert "Apache License" in (folder / f"LICENSE-{licence}").read_text()
    assert "BSD 3-Clause License" in (folder / "LICENSE-torchvision").read_text()
    assert "CC0 1.0 Universal" in (folder / "LICENSE-laion-clap").read_text()


def test_imagenet_has_seven_simple_templates():
    assert len(prompts.load("imagenet1k:simple").templates) == 7
    assert "itap of a {c}." in prompts.load("imagenet-a:simple").templates


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CIFAR-10", "cifar10"),
        ("wds_vtab-pets", "pets"),
        ("oxford_iiit_pet", "pets"),
        ("cars196", "cars"),
        ("imagenetv2", "imagenet1k"),
        ("imagenet_sketch", "imagenet1k"),
        ("ImageNet-A", "imagenet-a"),
        ("wds_imagenet_r", "imagenet-r"),
        ("digits", None),
    ],
)
def test_names_as_people_write_them(written, name):
    assert prompts.find(written) == name


def test_codes_and_numbers_become_names():
    codes = prompts.load("imagenet1k").codes
    result = prompts.apply(Source("val", [codes[2], codes[0]]))  # a few of ImageNet's classes, in a folder of any name
    assert result.class_names == ["great white shark", "tench"] and len(result.templates) == 80
    assert result[1]["captions"] == ["a bad photo of a tench."] and len(result) == 3
    numbers = sorted(map(str, range(1000)))  # as folders are sorted: "0", "1", "10", "100", ...
    names = prompts.load("imagenet1k").class_names
    assert prompts.apply(Source("imagenet", numbers)).class_names == [names[int(number)] for number in numbers]
    flowers = sorted(map(str, range(1, 103)))
    result = prompts.apply(Source("flowers", flowers)).class_names
    assert result[flowers.index("1")] == "pink primrose" and result[flowers.index("102")] == "blackberry lily"


def test_sounds_and_videos_by_the_names_of_their_data_sets():
    """ESC-50's table and numbers, folders of UCF101 as they are unpacked, Kinetics by names and numbers."""
    result = prompts.apply(Source("esc50", ["airplane", "sea_waves", "dog"], TEMPLATES["audio"]))
    assert result.class_names == ["airplane", "sea waves", "dog"]
    assert result[1]["captions"] == ["This is a sound of sea waves."]
    numbers = [str(number) for number in range(50)]
    by_number = prompts.apply(Source("ESC-50", numbers, TEMPLATES["audio"]), "esc50").class_names
    # The file 1-9887-A-49.wav is a hand saw, 1-17367-A-10.wav rain.
    assert [by_number[number] for number in (0, 10, 49)] == ["dog", "rain", "hand saw"]

    result = prompts.apply(Source("UCF-101", ["HandstandPushups", "YoYo", "ApplyLipstick"], TEMPLATES["video"]))
    assert result.class_names == ["Handstand Pushups", "Yo Yo", "Apply Lipstick"]
    assert result[0]["captions"] == ["a video of Handstand Pushups"]
    # Some name this folder as the data set's lists do.
    assert prompts.apply(Source("ucf101", ["HandStandPushups"])).class_names == ["Handstand Pushups"]

    names = ["abseiling", "passing_American_football_(in_game)"]
    result = prompts.apply(Source("kinetics", names, TEMPLATES["video"]))
    assert result.class_names == ["abseiling", "passing American football (in game)"]
    # Of another Kinetics, which has classes that are not among the 400.
    others = Source("kinetics", ["abseiling", "acting in play"], TEMPLATES["video"])
    assert prompts.apply(others) is others


def test_a_source_that_knows_words_for_its_codes_is_matched_by_the_codes(tmp_path):
    content = prompts.load("imagenet1k")
    chosen = [657, 2, 744, 0]  # two of them have the same name
    source = Source("val", [content.class_names[i] for i in chosen])
    source.class_codes = [content.codes[i] for i in chosen]
    result = prompts.apply(source)
    assert result.class_names == source.class_names and len(result.templates) == 80
    assert len(prompts.apply(source, "imagenet1k:simple").templates) == 7
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"tench": ["a fish"], "great white shark": ["a shark"], "missile": ["a rocket"]}))
    by_name = prompts.apply(source, str(file))
    assert by_name.class_names == source.class_names and by_name[0]["captions"] == ["a rocket"]
    file.write_text(json.dumps({"classes": list("abcd"), "codes": sorted(source.class_codes), "templates": ["{c}"]}))
    assert prompts.apply(source, str(file)).class_names == ["c", "b", "d", "a"]


def test_classes_that_stay_numbers_are_logged(caplog):
    """Where a zero-shot classifier is made of them, and only there."""

    def check(name, classes):
        source = prompts.apply(Source(name, classes))
        evaluation_task.check("zeroshot_classification", source, EvaluationSettings())

    check("mnist", list("0123456789"))
    check("mine", ["cat", "3"])
    prompts.apply(Source("mine", ["0", "1"]))
    assert not caplog.records
    check("mine", ["0", "1"])
    assert [word for word in ("'mine'", "a photo of a 0.", "classnames.txt") if word in caplog.text] and caplog.records


@pytest.mark.parametrize(("numbers", "first"), [(range(2, 103), 1), (range(101), 0), (range(1, 102), None)])
def test_numbers_are_not_guessed_to_begin_at_0_or_1(numbers, first):
    """Flowers' 102 classes with one missing: the last number, or 0, tells; without both nobody can know."""
    folders = sorted(map(str, numbers))
    names = prompts.load("flowers").class_names
    if first is None:
        with pytest.raises(
            UserError, match="'flowers' names 102 classes, .* numbers from 1 to 101, .* from 0 or from 1"
        ):
            prompts.apply(Source("flowers", folders))
    else:
        assert prompts.apply(Source("flowers", folders)).class_names == [
            names[int(folder) - first] for folder in folders
        ]


def test_names_are_matched_before_positions():
    names = list(prompts.load("stl10").class_names)
    shuffled = [f" {name.upper()}" for name in reversed(names)]
    assert prompts.apply(Source("stl10", shuffled)).class_names == names[::-1]
    eurosat = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    eurosat += ["Residential", "River", "SeaLake"]
    source = Source(
        "EuroSAT", eurosat
    )  # words of its own are left alone unless a person says which list they stand for
    assert prompts.apply(source) is source
    assert prompts.apply(source, "eurosat").class_names == list(prompts.load("eurosat").class_names)
    # "river" standing elsewhere says that the order is another.
    with pytest.raises(UserError, match="10 classes"):
        prompts.apply(Source("eurosat", eurosat[::-1]), "eurosat")


def test_a_source_keeps_what_it_brings():
    plain = Source("pets", ["cat", "dog"])
    assert prompts.apply(plain) is plain  # another number of classes: another dataset
    assert prompts.apply(Source("words", ["0", "1"])).class_names == ["0", "1"]
    source = Source("cifar10", list(prompts.load("cifar10").class_names), ["my {c}"])
    assert list(prompts.apply(source).templates) == ["my {c}"]
    assert prompts.apply(source, "own") is source
    assert len(prompts.apply(source, "cifar10").templates) == 18
    captions = Source("pairs", None, None)
    assert prompts.apply(captions) is captions


@pytest.mark.parametrize(
    ("content", "choice", "expected"),
    [
        (["a {c}!"], ["cat", "dog"], [["a cat!"], ["a dog!"]]),
        ({"dog": ["it barks"], "cat": ["it purrs", "a {c}"]}, ["cat", "dog"], [["it purrs", "a cat"], ["it barks"]]),
        ({"classes": ["Cat", "Dog"], "templates": ["{c}"], "codes": ["c", "d"]}, ["d", "c"], [["Dog"], ["Cat"]]),
        ({"toys": ["toy {c}"], "cifar10": ["{c}"]}, ["cat", "dog"], [["toy cat"], ["toy dog"]]),
        ({"toys": {"cat": ["1"], "dog": ["2"]}, "more": {"x": ["y"]}}, ["cat", "dog"], [["1"], ["2"]]),
    ],
    ids=["templates", "by class", "both", "by dataset", "by dataset and class"],
)
def test_files_of_ones_own(content, choice, expected, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    result = prompts.apply(Source("toys", choice), str(path))
    assert class_prompts(result.class_names, result.templates) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("imagnet1k", "did you mean 'imagenet1k'"),
        ("pets:simple", "has no 'simple' templates"),
        ("imagenet1k:short", "only ':simple' can follow"),
        ("missing.json", "there is no such file"),
        ("cifar100", "has 2 classes"),
        ([], "list of strings"),
        (["a photo"], "has no {c}"),
        ({"cat": "it purrs"}, "must be a list"),
        ({"templates": ["{c}"], "classes": ["a"], "codes": ["b", "c"]}, "2 codes for 1 classes"),
        ({"cifar10": ["{c}"]}, "has no entry for 'toys'"),
        ({"cat": ["x"]}, "class 'dog' has no prompts"),
        ("{", "not readable as JSON"),
    ],
)
def test_mistakes_are_one_line(choice, message, tmp_path):
    if not isinstance(choice, str) or choice == "{":
        path = tmp_path / "own.json"
        path.write_text(choice if isinstance(choice, str) else json.dumps(choice))
        choice = str(path)
    with pytest.raises(UserError) as caught:
        prompts.apply(Source("toys", ["cat", "dog"]), choice, field="datasets.toys.prompts")
    assert message in str(caught.value) and "\n" not in str(caught.value)


ORDERS = {"food101": ("tfds", "torchvision"), "caltech101": ("folders", "torchvision", "tfds")}
ORDERS |= {"fer2013": ("folders", "csv")}


@pytest.mark.parametrize("name", ORDERS)
def test_numbers_that_libraries_give_to_other_classes_are_asked_for(name):
    count = len(prompts.load(name).class_names)
    numbers = Source(name, sorted(map(str, range(count))))
    for choice in ("", name):
        with pytest.raises(UserError, match=f"{name!r}: the data's classes are numbers") as caught:
            prompts.apply(numbers, choice)
        assert all(f"'{name}:{order}'" in str(caught.value) for order in ORDERS[name])
    names_by_order = {order: prompts.load(f"{name}:{order}").class_names for order in ORDERS[name]}
    assert len(set(names_by_order.values())) == len(names_by_order)
    for order, names in names_by_order.items():
        folders = sorted(map(str, range(len(names))))
        applied = prompts.apply(Source(name, folders), f"{name}:{order}").class_names
        assert applied == [names[int(number)] for number in folders]
    # By name there is nothing to choose.
    names = prompts.load(name).class_names
    assert prompts.apply(Source(name, list(names[::-1]))).class_names == list(names[::-1])
    with pytest.raises(UserError, match=f"'{ORDERS[name][0]}'.* can follow"):
        prompts.load(f"{name}:keras")


def test_whose_order_is_whose():
    """torchvision sorts folders by their characters' codes; the CSV of FER2013 has neutral last."""
    food = {order: prompts.load(f"food101:{order}").class_names for order in ORDERS["food101"]}
    assert food["tfds"][16:18] == ("cheesecake", "cheese plate") == food["torchvision"][17:15:-1]
    folders = sorted(name.replace(" ", "_") for name in food["tfds"])
    assert [name.replace(" ", "_") for name in food["torchvision"]] == folders
    caltech = {order: prompts.load(f"caltech101:{order}").class_names for order in ORDERS["caltech101"]}
    assert caltech["folders"] == ("background", *caltech["torchvision"])
    assert caltech["torchvision"][0] == "off-center face"
    assert caltech["tfds"] == prompts.load("caltech101_vtab").class_names
    assert sorted(caltech["tfds"]) == sorted(caltech["folders"])
    csv = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
    assert prompts.load("fer2013:csv").class_names == csv
