"""Settings shared by recipes that train in minutes on two cores, on drawn scenes."""

from typing import Any

import ml_collections

from mmjax.errors import UserError

# Of embedded data: whose words the tokenizer has, and tokens of the longest caption, or question with its answer.
_TEXTS = {
    "shapes": ("shapes", 18),
    "questions": ("shapes", 16),
    "moving": ("moving", 20),
    "video_questions": ("moving", 20),  # as `moving`, whose model goes on
    "clicks": ("clicks", 16),
}


def apply_toy_scene_recipe(
    config: ml_collections.ConfigDict, *, steps: int, data: str = "shapes", scan: bool = False
) -> None:
    """Sets a config up for drawn scenes of 32 pixels and Muon, as `configs/quickstart.py` is.

    Args:
      config: changed in place; its model is one of the `small-...` or `tiny-...` sizes, or as small.
      steps: of training.
      data: `shapes` or `questions`, of videos `moving` or `video_questions`, of sounds `clicks`; its test split is
        evaluated on.
      scan: whether layers are looped over: slower by a little, and compiled in a fraction of the time.
    """
    words, length = _TEXTS[data]
    config.update(
        steps=steps,
        batch_size=128,
        precision="float32",  # CPUs are slow in bfloat16
        data=dict(
            train=data,
            eval=f"{data}/test",
            tokenizer=f"words:{words}",
            context_length=length,
        ),
        optimizer=dict(name="muon", learning_rate=6e-3, b1=0.95, weight_decay=0.1, grad_clip=1.0),
        schedule=dict(warmup=max(1, steps // 10)),
        checkpoint=dict(every=-(-steps // 3)),  # rounded up: none is made just before the last one
        eval=dict(every=0, batch_size=256),
        log=dict(every=20),
    )
    # Every pixel of a scene counts, and there are always new ones.
    seen = dict(audio=dict(sample_rate=8000)) if data == "clicks" else dict(mean_std="siglip", train_resize="squash")
    config.update(data=seen)
    cpu_friendly(config["model"], scan)


def cpu_friendly(settings: Any, scan: bool) -> None:
    """Layers one after the other or in a loop, and the cheaper of the two GELUs.

    Args:
      settings: a `ConfigDict` of a model or a part of it, changed in place.
      scan: whether layers are looped over.
    """
    for value in settings.values():
        if isinstance(value, ml_collections.ConfigDict):
            cpu_friendly(value, scan)
    if settings.get("activation") == "gelu":
        settings["activation"] = "gelu_tanh"
    if "scan" in settings:
        settings["scan"] = scan


def refuse_unused(args: ml_collections.ConfigDict, chosen: str, *names: str) -> None:
    """Refuses arguments of a recipe that were given beside a choice that has no use for them.

    Args:
      args: as `config.parse_arg` reads them; what is empty, zero or false was not given.
      chosen: the argument that decides, such as `variant=small-vilt`.
      names: of the arguments that it does not read.

    Raises:
      UserError: one of them was given.
    """
    for name in names:
        if args[name]:
            raise UserError(
                f"--config argument {name}={args[name]}: {chosen} has no use for it; leave it out, or change"
                f" {chosen.partition('=')[0]}"
            )
