"""Writes mmjax/data/classes: class names and prompt templates from the packages that publish them.

    pip install --no-deps --target=DIR clip-benchmark==1.6.1 open_clip_torch==3.3.0 tensorflow-datasets==4.9.10 \
        torchvision==0.28.0 laion-clap==1.1.7 mteb==2.26.24
    python scripts/extract_prompts.py DIR [DIR ...]

Nothing of the packages is imported or run: JSON and text files are read, and lists are taken from the syntax tree. The
licences of the packages are copied beside the data. tests/evaluation/test_prompts.py checks what is there.
"""

import ast
import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "mmjax/data/classes"
PACKAGES = {
    "clip-benchmark": ("clip_benchmark", "clip_benchmark-*.dist-info", "MIT"),
    "open-clip": ("open_clip", "open_clip_torch-*.dist-info", "MIT"),
    "tensorflow-datasets": ("tensorflow_datasets", "tensorflow_datasets-*.dist-info", "Apache-2.0"),
    "torchvision": ("torchvision", "torchvision-*.dist-info", "BSD-3-Clause"),
    "laion-clap": ("laion_clap", "laion_clap-*.dist-info", "CC0-1.0"),
    "mteb": ("mteb", "mteb-*.dist-info", "Apache-2.0"),
}

# Label names that the datasets themselves come with and none of the packages has; underscores are spaces here.
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
STL10 = "airplane bird car cat deer dog horse monkey ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm"""
AIRCRAFT = """
707-320 727-200 737-200 737-300 737-400 737-500 737-600 737-700 737-800 737-900 747-100 747-200 747-300 747-400 757-200
757-300 767-200 767-300 767-400 777-200 777-300 A300B4 A310 A318 A319 A320 A321 A330-200 A330-300 A340-200 A340-300
A340-500 A340-600 A380 ATR-42 ATR-72 An-12 BAE_146-200 BAE_146-300 BAE-125 Beechcraft_1900 Boeing_717 C-130 C-47 CRJ-200
CRJ-700 CRJ-900 Cessna_172 Cessna_208 Cessna_525 Cessna_560 Challenger_600 DC-10 DC-3 DC-6 DC-8 DC-9-30 DH-82 DHC-1
DHC-6 DHC-8-100 DHC-8-300 DR-400 Dornier_328 E-170 E-190 E-195 EMB-120 ERJ_135 ERJ_145 Embraer_Legacy_600
Eurofighter_Typhoon F-16A/B F/A-18 Falcon_2000 Falcon_900 Fokker_100 Fokker_50 Fokker_70 Global_Express Gulfstream_IV
Gulfstream_V Hawk_T1 Il-76 L-1011 MD-11 MD-80 MD-87 MD-90 Metroliner Model_B200 PA-28 SR-20 Saab_2000 Saab_340 Spitfire
Tornado Tu-134 Tu-154 Yak-42"""

# Names that TFDS, CLIP_benchmark's tars and people give the same classes in the same order.
ALIASES = {
    "imagenet1k": ["imagenet", "imagenet2012", "ilsvrc2012", "imagenetv2", "imagenet_sketch", "imagenet2012_real"],
    "pets": ["oxford_iiit_pet", "oxford_pets"],
    "flowers": ["oxford_flowers102", "flowers102"],
    "cars": ["cars196", "stanford_cars"],
    "fgvc_aircraft": ["aircraft"],
    "svhn": ["svhn_cropped"],
    "pcam": ["patch_camelyon"],
    "voc2007": ["voc2007_multilabel", "pascal_voc2007"],
    "clevr_count_all": ["clevr_count"],
    "renderedsst2": ["rendered_sst2", "sst2"],
    "food101": ["food-101"],
    "kinetics400": ["kinetics", "k400"],
}


def orders(classes: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Orders in which libraries number the same classes, by dataset: numbers alone do not say which one is meant."""
    # torchvision sorts the folders, and "_" comes before letters; TFDS and Hugging Face have the dataset's own list.
    food = classes["food101"]
    # Of Caltech-101 the folders are sorted, too (capitals first), with the background or, in torchvision, without.
    caltech = classes["caltech101"]
    # The CSV of FER2013 numbers them, and torchvision reads it; CLIP_benchmark sorts the folders of Kaggle's archive.
    fer = classes["fer2013"]
    csv = [name for name in fer if name != "neutral"] + ["neutral"]
    return {
        "food101": {"tfds": food, "torchvision": sorted(food, key=lambda name: name.replace(" ", "_"))},
        "caltech101": {"folders": caltech, "torchvision": caltech[1:], "tfds": classes["caltech101_vtab"]},
        "fer2013": {"folders": fer, "csv": csv},
    }


class Packages:
    """Files of the installed packages, with what they are cited as."""

    def __init__(self, folders: list[Path]):
        self.roots, self.versions, self.licences = {}, {}, {}
        for name, (folder, info, licence) in PACKAGES.items():
            (root,) = {top / folder for top in folders if (top / folder).is_dir()}
            (info,) = root.parent.glob(info)
            self.roots[name] = root
            self.versions[name] = info.name.removesuffix(".dist-info").rpartition("-")[2]
            (text,) = {path.read_text() for path in info.rglob("LICENSE")}
            self.licences[name] = (licence, text)

    def text(self, name: str, path: str) -> str:
        return (self.roots[name] / path).read_text()

    def lists(self, name: str, path: str) -> dict[str, list[str]]:
        """All lists, tuples and sets of strings that a module (or a function in it) assigns, by name.

        Templates are functions of a class name in open_clip: their f-string is read with {c} for it.
        """
        lists = {}
        for node in ast.walk(ast.parse(self.text(name, path))):
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple, ast.Set)):
                try:
                    lists[ast.unparse(node.targets[0])] = [_string(item) for item in node.value.elts]
                except ValueError:
                    continue
        return lists

    def strings(self, name: str, path: str) -> list[str]:
        """All strings of a module, those that are built with {c} for what is put in; each once."""
        nodes = (node for node in ast.walk(ast.parse(self.text(name, path))) if isinstance(node, ast.expr))
        is_text = lambda node: isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)
        texts = (node for node in nodes if isinstance(node, (ast.JoinedStr, ast.Constant)) and is_text(node))
        return list(dict.fromkeys(_string(node) for node in texts))

    def cite(self, name: str, path: str) -> str:
        return f"{name} {self.versions[name]} ({self.licences[name][0]}), {path}"


def _string(node: ast.expr) -> str:
    if isinstance(node, ast.Lambda):
        node = node.body
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{c}" for part in node.values)
    raise ValueError(ast.dump(node))


def _words(text: str) -> list[str]:
    return [word.replace("_", " ") for word in text.split()]


def collect(packages: Packages) -> dict[str, dict]:
    """Everything that is written, by file name."""
    cb, oc, tfds = "clip-benchmark", "open-clip", "tensorflow-datasets"
    names_file = "datasets/en_classnames.json"
    names = json.loads(packages.text(cb, names_file))
    templates_file = "datasets/en_zeroshot_classification_templates.json"
    templates = json.loads(packages.text(cb, templates_file))
    from_tfds = lambda path: [line.strip() for line in packages.text(tfds, path).splitlines() if line.strip()]
    classes = {name: (labels, packages.cite(cb, names_file)) for name, labels in names.items()}
    cited = "label names of the dataset"
    classes |= {
        "cifar10": (_words(CIFAR10), cited),
        "cifar100": (_words(CIFAR100), cited),
        "stl10": (_words(STL10), cited),
    }
    classes |= {"fgvc_aircraft": (_words(AIRCRAFT), cited), "renderedsst2": (["negative", "positive"], cited)}
    path = "datasets/voc2007.py"
    classes["voc2007"] = (packages.lists(cb, path)["object_categories"], packages.cite(cb, path))
    for name, path in (
        ("food101", "image_classification/food-101_classes.txt"),
        ("dtd", "image_classification/dtd_key_attributes.txt"),
        ("sun397", "image_classification/sun397_labels.txt"),
    ):
        # "/a/airport_terminal" and "/c/church/indoor": the letter is no part of the name.
        labels = [line[3:] if line[0] == "/" else line for line in from_tfds(path)]
        classes[name] = ([label.replace("_", " ").replace("/", " ") for label in labels], packages.cite(tfds, path))
    for name, path, variable in (
        ("cars", "image_classification/cars196.py", "_NAMES"),
        ("resisc45", "datasets/resisc45/resisc45_dataset_builder.py", "_LABELS"),
    ):
        labels = packages.lists(tfds, path)[variable]
        classes[name] = ([label.replace("_", " ") for label in labels], packages.cite(tfds, path))

    media = collect_media(packages)
    classes |= {name: labels for name, (labels, _, _) in media.items()}
    templates |= {name: prompts for name, (_, (prompts, _), _) in media.items()}

    path = "datasets/builder.py"
    lists = packages.lists(cb, path)
    codes = lists["all_imagenet_wordnet_ids"]
    metadata = packages.lists(oc, "zero_shot_metadata.py")
    assert metadata["IMAGENET_CLASSNAMES"] == names["imagenet1k"]
    assert metadata["OPENAI_IMAGENET_TEMPLATES"] == templates["imagenet1k"]
    by_code = dict(zip(codes, names["imagenet1k"], strict=True))
    coded = {"imagenet1k": codes} | {name: folders for name, (_, _, folders) in media.items() if folders}
    for letter in "aro":
        subset = sorted(lists[f"imagenet_{letter}_wnids"])
        coded[f"imagenet-{letter}"] = subset
        classes[f"imagenet-{letter}"] = ([by_code[code] for code in subset], packages.cite(cb, f"{names_file}, {path}"))
        templates[f"imagenet-{letter}"] = templates["imagenet1k"]
    templates["caltech101_vtab"] = templates["caltech101"]

    labels = {}
    for name in sorted(set(classes) & set(templates)):
        own_names, source = classes[name]
        entry = {"name": name, "aliases": ALIASES.get(name, []), "language": "en", "classes_from": source}
        entry["templates_from"] = media[name][1][1] if name in media else packages.cite(cb, templates_file)
        entry |= {"templates": templates[name], "classes": own_names}
        if name in coded:
            entry["codes"] = coded[name]
        if name.startswith("imagenet"):
            entry["simple_templates"] = metadata["SIMPLE_IMAGENET_TEMPLATES"]
            entry["simple_templates_from"] = packages.cite(oc, "zero_shot_metadata.py")
        labels[name] = entry
    for name, ways in orders({name: entry["classes"] for name, entry in labels.items()}).items():
        labels[name]["orders"] = ways
    return labels


def collect_media(packages: Packages) -> dict[str, tuple]:
    """Data sets of sounds and videos: names and their source, templates and theirs, names of the classes' folders."""
    tfds, tv, clap, mteb = "tensorflow-datasets", "torchvision", "laion-clap", "mteb"
    path, prefix = "tasks/zeroshot_classification/zxx/esc50.py", "This is a sound of "
    sounds = [text for text in packages.strings(mteb, path) if text.startswith(prefix) and text != prefix]
    esc50 = [text.removeprefix(prefix).replace("_", " ") for text in sounds], packages.cite(mteb, path)
    path = "evaluate/eval_zeroshot_classification.py"
    (template,) = (text for text in packages.strings(clap, path) if text.startswith(f"{prefix}{{c}}"))
    of_sounds = [template], packages.cite(clap, path)

    path = "video/ucf101_labels.txt"
    folders = packages.text(tfds, path).split()
    ucf101 = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder) for folder in folders], packages.cite(tfds, path)
    path, variable = "models/_meta.py", "_KINETICS400_CATEGORIES"
    kinetics = packages.lists(tv, path)[variable], packages.cite(tv, path)
    result = {"esc50": (esc50, of_sounds, [])}
    for name, labels, codes in (("ucf101", ucf101, folders), ("kinetics400", kinetics, [])):
        path = f"tasks/zeroshot_classification/eng/{name}.py"
        (template,) = (text for text in packages.strings(mteb, path) if text.startswith("a video of {c}"))
        result[name] = labels, ([template], packages.cite(mteb, path)), codes
    return result


def main() -> None:
    packages = Packages([Path(folder) for folder in sys.argv[1:]])
    OUT.mkdir(exist_ok=True)
    for name, entry in collect(packages).items():
        (OUT / f"{name}.json").write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, (_, text) in packages.licences.items():
        (OUT / f"LICENSE-{name}").write_text(text)


if __name__ == "__main__":
    main()
