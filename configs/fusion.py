"""Classification by three modalities that each tell a part: fused in any way, and with some of them missing.

Command:
  python train.py --config=configs/fusion.py:kind=joint --workdir=runs/fusion
  python eval.py --workdir=runs/fusion
Recipe: a small encoder for each of image, time series and table, and `kind`: concat, weighted, gated, attention, cross,
  joint, bottleneck, late or hybrid. `combine=linear|logits|product` is how late and hybrid combine decisions;
  `dropout=0.3` hides each modality from three in ten examples of training, never all of them; `only=image` trains on
  one modality alone.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 20 s of training at 1,500 examples/s after a minute of compiling.
Expected: kind=joint, top-1 96.2 % with all three (no classifier can exceed 97.2 %), 84.5 % to 87.1 % without one of
  them, 41.2 % to 47.9 % with one alone; trained alone, image 48.0 %, series 43.5 %,
  table 44.4 %. More kinds: docs/recipes.md.
"""

from mmjax.config import ConfigDict, base_config, parse_arg, set_group
from mmjax.config.toy_presets import refuse_unused
from mmjax.data.sources import sensors
from mmjax.errors import validate_choice
from mmjax.models.fusion.config import COMBINATIONS
from mmjax.registry import fusions

# Kinds that combine decisions.
DECIDING = ("late", "hybrid")
LAYERS = dict(width=32, heads=2, mlp_dim=64, activation="gelu_tanh", dropout=0.0, drop_path=0.0, scan=False)
ENCODERS = {
    "image": dict(kind="image", image_size=16, patch_size=4, depth=1, class_token=False, pre_norm=False, **LAYERS),
    "series": dict(kind="series", steps=32, patch_length=4, depth=1, class_token=False, **LAYERS),
    "table": dict(
        kind="table", numeric=sensors.NUMERIC, categories=sensors.CATEGORIES, depth=1, class_token=False, **LAYERS
    ),
}


def get_config(arg: str = ""):
    args = parse_arg(arg, kind="", only="", combine="", dropout=0.0, steps=200)  # '': the recipe's own
    names, fusion = _chosen(args)
    config = base_config("tiny")
    config.variant = args.only or args.kind or "joint"
    config.name = f"fusion-{config.variant}"
    config.steps = args.steps
    config.batch_size = 128
    config.objectives.classify = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16

    encoders = {name: ENCODERS[name] for name in names}
    model = dict(
        kind="fused", init="openai", encoders=encoders, fusion=fusion, classes=8, modality_dropout=args.dropout
    )
    set_group(config, "model", model)

    config.data.train = "sensors"
    config.data.eval = "sensors/test"

    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = args.steps // 10

    config.checkpoint.every = args.steps
    config.eval.every = 0
    config.eval.batch_size = 512
    config.log.every = 20
    return config


def _chosen(args: ConfigDict) -> tuple[list[str], dict]:
    """The modalities, and settings of their fusion."""
    combine = validate_choice("combine", args.combine or "product", COMBINATIONS)
    if args.only:
        refuse_unused(args, f"only={args.only}", "kind", "combine", "dropout")
        return [validate_choice("only", args.only, ENCODERS)], _fusion("weighted", combine)
    kind = validate_choice("kind", args.kind or "joint", [kind for kind in fusions if kind != "alone"])
    if kind not in DECIDING:
        refuse_unused(args, f"kind={kind}", "combine")
    return list(ENCODERS), _fusion(kind, combine)


def _fusion(kind: str, combine: str) -> dict:
    """Settings of a fusion."""
    if kind in DECIDING:
        inner = {"fusion": _fusion("joint", combine)} if kind == "hybrid" else {}
        return dict(kind=kind, combine=combine, **inner)
    settings = dict(kind=kind, width=LAYERS["width"])
    if kind in ("attention", "cross", "joint", "bottleneck"):
        settings |= dict(LAYERS, depth=1)
    if kind == "cross":
        settings["query"] = "image"
    if kind == "bottleneck":
        settings |= dict(depth=2, fusion_layer=0, bottlenecks=4)
    return settings
