"""Fields of the optimizer, its schedule, checkpoints and logs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class LayerDecayConfig:
    """Factors on the learning rate per layer, counted from the top."""

    image: float = 1.0
    """of the image tower"""
    text: float = 1.0
    """of the text tower"""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv:2106.09685), which are trained in place of what they are added to."""

    rank: int = 0
    """of each adapter; 0 = off"""
    alpha: float = 16.0
    """an adapter's product is multiplied by alpha / rank"""
    which: tuple[str, ...] = (".*attention/(q|k|v|out)/kernel", ".*mlp/fc[12]/kernel")
    """path regexes of the kernels that have one; of a fused `qkv/kernel` q, k and v are named by themselves"""
    full: tuple[str, ...] = ()
    """path regexes, or names of parts, of what is trained as a whole beside them, such as a new head"""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule, and which parameters it changes by how much."""

    name: str = "adamw"
    """adamw, lion, adafactor, muon, sgd"""
    learning_rate: float = 5e-4
    """peak"""
    b1: float = 0.9
    """decay of the first moment; momentum of sgd and muon"""
    b2: float = 0.98
    """decay of the second moment"""
    eps: float = 1e-6
    """added to the root of the second moment"""
    weight_decay: float = 0.2
    """decoupled, of what `decay` names"""
    decay: tuple[str, ...] = ("matrices",)
    """path regexes, or 'matrices' (kernels and the token table), 'open_clip' (all of two axes or more, positions and
    probes among them, but for biases and norms), 'big_vision' (kernels); several: what any of them names"""
    decay_scaled_by_lr: bool = True
    """as in AdamW; False: by the schedule's share of the peak alone, as in big_vision"""
    b2_cap: float = 0.999
    """adafactor: most of the second moment that a step keeps; 1 = no cap (the paper's)"""
    update_clip: float = 0.0
    """adafactor: RMS that a matrix's update is cut to; 0 = off, as in big_vision (the paper's: 1)"""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """of the first moment; 'bfloat16' halves it"""
    grad_clip: float = 0.0
    """global norm; 0 = off"""
    freeze: tuple[str, ...] = ()
    """path regexes, or names of towers: 'image' locks 'image/.*' and 'image_head/.*' (LiT)"""
    multipliers: tuple[tuple[str, float], ...] = ()
    """(path regex, factor) pairs on the learning rate, first match wins"""
    layer_decay: LayerDecayConfig = field(default_factory=LayerDecayConfig)
    """factor per layer counted from the top"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """low-rank adapters, with which all else is frozen"""
    added: Mapping[str, Any] = field(default_factory=dict)
    """fields of the update rules of plugins, by name; in a config they are optimizer.NAME"""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the steps, as a multiple of the peak."""

    name: Literal["cosine", "constant", "rsqrt", "step"] = "cosine"
    """cosine, constant, rsqrt, step"""
    warmup: int = 2000
    """steps of linear warm-up"""
    from_zero: bool = False
    """the first of them has rate 0, as in big_vision; False: 1 / warmup, as in OpenCLIP"""
    cooldown: int = 0
    """last steps of constant and rsqrt, falling linearly to `final`"""
    timescale: int = 10_000
    """rsqrt: steps after which the rate has fallen by sqrt(2)"""
    decay_rate: float = 0.9
    """step: what the rate is multiplied by"""
    decay_every: int = 0
    """step: updates after which it is, again and again"""
    final: float = 0.0
    """share of the peak at the end of cosine or of a cool-down, and the least that step falls to"""
    final_of: Literal["peak", "rate"] = "peak"
    """rsqrt: 'rate' makes `final` a share of what the rate would be without the cool-down"""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which steps are saved, and which of them are kept."""

    every: int = 1000
    """steps; the last step is always saved"""
    keep: int = 2
    """latest ones"""
    keep_best: int = 0
    """and this many best ones by `best_metric`"""
    best_metric: str = ""
    """e.g. 'shapes/image_retrieval_recall@1'; larger is better"""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Lines of numbers, where they go, and traces of the profiler."""

    every: int = 20
    """steps between lines of metrics.jsonl"""
    tensorboard: bool = True
    """the same numbers in WORKDIR/tensorboard"""
    wandb_project: str = ""
    """'' = off; needs the wandb package"""
    writers: tuple[str, ...] = ()
    """of plugins, beside these, by name"""
    profile: tuple[int, int] | tuple[()] = ()
    """(first, last) steps to trace into WORKDIR/profile"""
