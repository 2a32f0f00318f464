"""Evaluation suites: datasets with their prompts and tasks, and collections of them.

Command:
  python eval.py --workdir=runs/quickstart --config=configs/eval.py
  python eval.py --workdir=runs/clip-b32 --config=configs/eval.py:root=/data/eval,collection=vtab
  python eval.py --model=open_clip.safetensors --output=results.json --config=configs/eval.py:collection=retrieval
Any dataset or collection can be named, several joined by "+": collection=imagenet1k+imagenet_robustness+retrieval.
Data: `root` holds CLIP_benchmark's webdataset repositories (huggingface.co/clip-benchmark), one folder each:
  ROOT/wds_food101/{train,test}, with class names and templates beside the tars, and Karpathy's JSON files with their
  images: ROOT/coco/dataset_coco.json, ROOT/flickr30k/dataset_flickr30k.json, ROOT/flickr8k/dataset_flickr8k.json. The
  default collection, `embedded`, needs no data. `media` is for towers of sounds or of videos, of which `sounds` and
  `videos` are the halves: ROOT/ESC-50 as it is cloned, ROOT/UCF-101 beside ROOT/ucfTrainTestlist,
  ROOT/kinetics400/val by class, ROOT/{audiocaps,clotho,msrvtt} with the published tables beside their files (SOUNDS and
  VIDEOS below). Another place or format is one field:
  --config.datasets.imagenet1k.source=folder:/data/imagenet/val --config.datasets.imagenet1k.prompts=imagenet1k
A suite of one's own is a copy of this file. docs/evaluation.md tells the rest.
"""

from mmjax.config import dataset, parse_arg, suite_config

ZERO_SHOT, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"
PROBES = ("knn", "linear_probe")

# Datasets of CLIP_benchmark's tars: name: (folder, main metric; "" is acc1). Published prompts where mmjax has them.
CLASSIFICATION = {
    "imagenet1k": ("imagenet1k", ""),
    "imagenetv2": ("imagenetv2", ""),
    "imagenet_sketch": ("imagenet_sketch", ""),
    "imagenet-a": ("imagenet-a", ""),
    "imagenet-r": ("imagenet-r", ""),
    "imagenet-o": ("imagenet-o", ""),
    "objectnet": ("objectnet", ""),
    "caltech101": ("vtab-caltech101", "mean_per_class_recall"),
    "cars": ("cars", ""),
    "cifar10": ("cifar10", ""),
    "cifar100": ("vtab-cifar100", ""),
    "clevr_count_all": ("vtab-clevr_count_all", ""),
    "clevr_closest_object_distance": ("vtab-clevr_closest_object_distance", ""),
    "country211": ("country211", ""),
    "diabetic_retinopathy": ("vtab-diabetic_retinopathy", ""),
    "dmlab": ("vtab-dmlab", ""),
    "dtd": ("vtab-dtd", ""),
    "eurosat": ("vtab-eurosat", ""),
    "fer2013": ("fer2013", ""),
    "fgvc_aircraft": ("fgvc_aircraft", "mean_per_class_recall"),
    "flowers": ("vtab-flowers", "mean_per_class_recall"),
    "food101": ("food101", ""),
    "gtsrb": ("gtsrb", ""),
    "kitti_closest_vehicle_distance": ("vtab-kitti_closest_vehicle_distance", ""),
    "mnist": ("mnist", ""),
    "pcam": ("vtab-pcam", ""),
    "pets": ("vtab-pets", "mean_per_class_recall"),
    "renderedsst2": ("renderedsst2", ""),
    "resisc45": ("vtab-resisc45", ""),
    "stl10": ("stl10", ""),
    "sun397": ("sun397", ""),
    "svhn": ("vtab-svhn", ""),
}
IMAGENET_ROBUSTNESS = ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet")
# The Visual Task Adaptation Benchmark (Zhai et al. 2019) but for its three synthetic sets without published names.
VTAB = (
    *("caltech101", "cifar100", "clevr_count_all", "clevr_closest_object_distance", "diabetic_retinopathy", "dmlab"),
    *("dtd", "eurosat", "flowers", "kitti_closest_vehicle_distance", "pcam", "pets", "resisc45", "sun397", "svhn"),
)

# Sounds and videos: source, columns of captions, column of the class. Another layout of Kinetics is its CSV:
# pairs:{root}/kinetics400/val.csv,images={root}/kinetics400/val/{youtube_id}_{time_start:06}_{time_end:06}.mp4
SOUNDS = {
    "esc50": ("pairs:{root}/ESC-50/meta/esc50.csv,images={root}/ESC-50/audio", "", "category"),
    "audiocaps": ("pairs:{root}/audiocaps/test.csv,images={root}/audiocaps/test/{youtube_id}.wav", "", ""),
    "clotho": (
        "pairs:{root}/clotho/clotho_captions_evaluation.csv,images={root}/clotho/evaluation",
        "caption_1+caption_2+caption_3+caption_4+caption_5",
        "",
    ),
}
VIDEOS = {
    "ucf101": ("folder:{root}/UCF-101,list={root}/ucfTrainTestlist/testlist01.txt", "", ""),
    "kinetics400": ("folder:{root}/kinetics400/val", "", ""),
    # The split 1k-A: a sentence for each of a thousand videos.
    "msrvtt": (
        "pairs:{root}/msrvtt/MSRVTT_JSFUSION_test.csv,images={root}/msrvtt/videos/{video_id}.mp4",
        "sentence",
        "",
    ),
}
BY_CLASS = ("esc50", "ucf101", "kinetics400")

SUGAR_CREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def get_config(arg: str = ""):
    args = parse_arg(arg, root="data", collection="embedded")
    config = suite_config(args.root, args.collection)
    sets = config.datasets

    sets.digits = dataset("digits/test", ZERO_SHOT, "few_shot", *PROBES, train="digits/train")
    sets.shapes = dataset("shapes/test", RETRIEVAL)

    for name, (folder, metric) in CLASSIFICATION.items():
        sets[name] = dataset(f"wds:{{root}}/wds_{folder}/test", ZERO_SHOT, main_metric=metric)
    for name in (
        "cifar10",
        "cifar100",
        "food101",
        "dtd",
        "eurosat",
        "flowers",
        "pets",
        "resisc45",
        "svhn",
        "imagenet1k",
    ):
        sets[name].train = sets[name].source.replace("/test", "/train")  # add tasks: --config.datasets.NAME.tasks

    source = "wds:{root}/wds_voc2007_multilabel/test"
    sets.voc2007_multilabel = dataset(source, ZERO_SHOT, main_metric="mean_average_precision")

    for name in ("coco", "flickr30k", "flickr8k"):
        sets[name] = dataset(f"karpathy:{{root}}/{name}/dataset_{name}.json/test", RETRIEVAL)
    sets.coco.fold_size = 1000

    for kind in SUGAR_CREPE:
        source = f"sugarcrepe:{{root}}/sugar_crepe/{kind}.json,images={{root}}/coco/val2017"
        sets[f"sugar_crepe_{kind}"] = dataset(source, "image_caption_selection", main_metric="acc")

    source = "winoground:{root}/winoground/data/examples.jsonl"
    sets.winoground = dataset(source, "image_caption_selection", main_metric="acc")

    for name, (source, captions, label) in (SOUNDS | VIDEOS).items():
        task = ZERO_SHOT if name in BY_CLASS else RETRIEVAL
        sets[name] = dataset(source, task, caption_keys=captions, label_key=label)

    config.collections.embedded = ("digits", "shapes")
    config.collections.imagenet_robustness = IMAGENET_ROBUSTNESS
    config.collections.retrieval = ("coco", "flickr30k", "flickr8k")
    config.collections.sugar_crepe = tuple(f"sugar_crepe_{kind}" for kind in SUGAR_CREPE)
    config.collections.vtab = VTAB
    config.collections.sounds = tuple(SOUNDS)
    config.collections.videos = tuple(VIDEOS)
    config.collections.media = (*SOUNDS, *VIDEOS)
    config.collections.classification = tuple(CLASSIFICATION)
    return config
