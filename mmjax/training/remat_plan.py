"""What the layers of two towers keep for the backward pass, by formula, and which of them to compute again.

Compiling candidates to see would take minutes for each; `tests/training/test_remat_plan.py` holds the formula to what
compilers say.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from mmjax.config.schema import RunConfig
from mmjax.models.config import TwoTowerConfig
from mmjax.models.image_config import ImageTowerConfig
from mmjax.models.text_config import TextTowerConfig
from mmjax.nn.config import block_config
from mmjax.nn.layer_loop import loops
from mmjax.nn.pool import OF_ONE_TOKEN
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.tasks import attention_kernels
from mmjax.training import compiler, device_specs

# Share of the memory that the formula may plan with; the rest is for what it does not count.
_USABLE = 0.9
# What a TPU's program holds besides, of the gradients' bytes: themselves, and copies of the weights in bfloat16.
_TPU_OVERHEAD = 1.5
# What is at work in the backward pass of a layer that is computed again, in layers beside its own.
_TPU_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Remat:
    """How a tower's layers are rematerialised: a policy, and how many of the last layers keep everything."""

    policy: str
    keep: int = 0

    @property
    def label(self) -> str:
        """The policy, and how many layers it leaves out, where it does."""
        return f"{self.policy} but for {self.keep}" if self.keep else self.policy


@dataclasses.dataclass(frozen=True)
class Tower:
    """The shapes of one tower's layers on one device.

    Attributes:
      depth: layers.
      tokens: of all examples of a microbatch on one device, as the kernels see them.
      width, mlp, heads: of a layer; what a `tensor` device has of the hidden units and heads.
      inner: numbers of all heads.
      gated, mlp_norm, attention_norm, scaled: whether a layer has these, with the arrays that they keep.
      attended: tokens that each token attends to, where attention's weights are kept; 0 for a fused kernel.
      bytes: of a number in the compute type.
      pooled: whether the last layer is computed for one token of each example alone.
      tpu: whether a TPU's compiler decides what is kept: it computes norms again, and keeps attention's weights in
        float32.
    """

    depth: int
    tokens: int
    width: int
    inner: int
    mlp: int
    heads: int
    attended: int
    bytes: int
    pooled: bool
    tpu: bool = False
    gated: bool = False
    mlp_norm: bool = False
    attention_norm: bool = False
    scaled: bool = False

    def kept(self, policy: str) -> int:
        """Bytes that one layer keeps from the forward pass.

        Per token: the layer's input, both norms' outputs and the tokens between attention and MLP; queries, keys and
        values; attention's output; hidden units before and after the activation, and a gate's; what layer scales
        multiply. Norms keep two float32 numbers each, a fused attention kernel one a head, attention without one its
        weights.
        """
        products = 4 * self.inner + (1 + self.gated) * self.mlp
        more = self.attention_norm * self.inner + self.mlp_norm * self.mlp + 2 * self.scaled * self.width
        norms = 2 + self.attention_norm + self.mlp_norm
        statistics = 4 * (2 * norms + (0 if self.attended else self.heads))
        weights = self.heads * self.attended * (4 if self.tpu else self.bytes)
        numbers = {
            "none": (2 if self.tpu else 4) * self.width + products + self.mlp + more,
            "dots": 2 * self.width + products,
            "attention": self.width + self.inner,
            "full": self.width,
        }[policy]
        kept = numbers * self.bytes
        if policy == "none":
            kept += statistics + weights
        elif policy != "full" and not self.attended:
            kept += 4 * self.heads
        return self.tokens * kept

    def held(self, remat: Remat) -> int:
        """Bytes that all layers keep."""
        kept = min(remat.keep, self.depth) if remat.policy != "none" else self.depth
        total = kept * self.kept("none") + (self.depth - kept) * self.kept(remat.policy)
        if self.pooled and kept:
            # Of the last layer: its input, the norm's output, keys and values.
            total -= self.kept("none") - self.tokens * self.bytes * 2 * (self.width + self.inner)
        return total

    def working(self, remat: Remat, ahead: int = 0) -> int:
        """Bytes at work in one layer's backward pass: gradients of the hidden units, or what is computed again.

        Args:
          remat: how the tower is rematerialised.
          ahead: layers that are computed again before it is their turn.
        """
        if remat.policy == "none" or remat.keep >= self.depth:
            return self.tokens * self.bytes * (2 + self.gated) * self.mlp
        return (1 + ahead) * self.kept("none") - self.kept(remat.policy)


def towers(
    config: RunConfig, model: TwoTowerConfig, kernels: Mapping[str, str], mesh: jax.sharding.Mesh
) -> dict[str, Tower]:
    """The two towers of a contrastive model as one device runs them; texts are padded, as some batches may be.

    Args:
      config: the run's config.
      model: its.
      kernels: attention kernel of each tower.
      mesh: of the devices.

    Raises:
      TypeError: the image tower is none of layers.
    """
    if not isinstance(model.image, ImageTowerConfig):
        raise TypeError("a convolutional tower has no layers to count")
    examples = config.batch_size // mesh_lib.batch_devices(mesh) // config.microbatch
    lengths: dict[str, tuple[ImageTowerConfig | TextTowerConfig, int]] = {
        "image": (model.image, attention_kernels.image_tokens(model.image)),
        "text": (model.text, config.data.context_length or model.text.context_length),
    }
    towers, platform = {}, mesh.devices.flat[0].platform
    for name, (settings, length) in lengths.items():
        attended = 0 if kernels[name] in ("cudnn", "pallas") else length
        if kernels[name] == "cudnn":
            length += length % 2
        elif platform == "tpu":  # whose memory is laid out in tiles
            length, attended = _multiple(length, 8), _multiple(attended, 128)
        block = block_config(settings.block)
        size = block.head_dim or settings.width // settings.heads
        shards = mesh.shape["tensor"] if settings.heads % mesh.shape["tensor"] == 0 else 1
        towers[name] = Tower(
            depth=settings.depth,
            tokens=examples * length,
            width=settings.width,
            inner=settings.heads * size // shards,
            gated=block.mlp_gate,
            mlp_norm=block.mlp_norm,
            attention_norm=block.attention_norm,
            scaled=block.layer_scale > 0,
            mlp=settings.mlp_dim // shards,
            heads=settings.heads // shards,
            attended=attended,
            bytes=2 if config.precision == "bfloat16" else 4,
            pooled=settings.pool in OF_ONE_TOKEN and not loops(settings.scan, platform),
            tpu=platform == "tpu",
        )
    return towers


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def memory_limit(device: Any) -> float:
    """Bytes that a program may use of a device's memory; infinite where that is not known (a CPU).

    Raises:
      UserError: the environment gives jax no share of a GPU's memory from 0 to 1.
    """
    if device.platform == "cpu":
        return float("inf")
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # a device that can only be compiled for
        stats = {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    sheet = device_specs.find(device.device_kind)
    if sheet is None or not sheet.memory:
        return float("inf")
    return sheet.memory * (compiler.gpu_memory_share() if device.platform in ("gpu", "cuda") else 1.0)


@dataclasses.dataclass(frozen=True)
class Planner:
    """What a step needs of one device's memory, and which layers to compute again so that it fits.

    Attributes:
      towers: all of them.
      fixed: how those are rematerialised that the config decides about.
      gradients: bytes of the trainable parameters.
      held: bytes of the state, which stays from step to step.
      available: bytes that a program may use.
      overhead: bytes of what a platform's programs hold besides.
      ahead: layers that they compute again before it is their turn.
      policies: what layers may be rematerialised by, the one that computes least again first.
    """

    towers: Mapping[str, Tower]
    fixed: Mapping[str, Remat]
    gradients: int
    held: int
    available: float
    overhead: int = 0
    ahead: int = 0
    policies: tuple[str, ...] = ("dots", "full")

    def bytes(self, remat: Mapping[str, Remat]) -> int:
        """Of a step, when the backward pass begins, or when it ends if gradients are larger than what layers keep."""
        remat = {**self.fixed, **remat}
        kept = sum(tower.held(remat[name]) for name, tower in self.towers.items())
        working = max(tower.working(remat[name], self.ahead) for name, tower in self.towers.items())
        return self.held + max(kept, self.gradients) + working + self.overhead

    def fits(self, remat: Mapping[str, Remat]) -> bool:
        """Whether a step fits, with room for what is not counted."""
        return self.bytes(remat) <= self.available * _USABLE

    def choose(self) -> dict[str, Remat]:
        """How to rematerialise each tower, so that a step fits and as little as possible is computed again.

        In order: nothing; then by `policies`, norms and activations (`dots`) or all (`full`). With the first that can
        fit, as many of the last layers as fit keep everything, the larger tower's first: the smaller fill what is left.
        """
        free = [name for name in self.towers if name not in self.fixed]
        kept_whole = dict.fromkeys(free, Remat("none"))
        if self.fits(kept_whole):
            return kept_whole
        able = (policy for policy in self.policies if self.fits(dict.fromkeys(free, Remat(policy))))
        policy = next(able, self.policies[-1])
        remat = dict.fromkeys(free, Remat(policy))
        for name in sorted(free, key=lambda name: -self.towers[name].kept("none")):
            depth = self.towers[name].depth
            fitting = (keep for keep in range(depth, 0, -1) if self.fits(remat | {name: Remat(policy, keep)}))
            keep = next(fitting, 0)
            remat[name] = Remat("none") if keep == depth else Remat(policy, keep)
        return remat

    def describe(self, remat: Mapping[str, Remat]) -> str:
        """One line: what is computed again."""
        recomputed = {tower: setting for tower, setting in remat.items() if setting.policy != "none"}
        if not recomputed:
            return "remat: nothing is computed again in the backward pass"
        parts = [
            f"{tower} {setting.policy}, but for the last {setting.keep} of {self.towers[tower].depth} layers"
            for tower, setting in recomputed.items()
        ]
        needs, room = self.bytes(remat) / 1e9, self.available / 1e9
        return f"remat: {'; '.join(parts)} (about {needs:.1f} of {room:.1f} GB on a device)"


def make_planner(
    config: RunConfig,
    kernels: Mapping[str, str],
    mesh: jax.sharding.Mesh,
    state: Any,
    trainable: Any,
    available: float | None = None,
) -> Planner | None:
    """Plans the memory of a run's step; None where the config decides, or for models that the formula does not know.

    Args:
      config: the run's config.
      kernels: attention kernel of each tower.
      mesh: its devices.
      state: the train state as shapes with shardings.
      trainable: the parameters that are trained, as shapes. A tower without any keeps nothing.
      available: bytes that a program may use, the same in all processes; None to ask the mesh's first device.
    """
    model = config.model
    if not isinstance(model, TwoTowerConfig) or not isinstance(model.image, ImageTowerConfig):
        return None
    settings = {"image": model.image, "text": model.text}
    trained = {name: tower for name, tower in settings.items() if jax.tree.leaves(trainable.get(name))}
    fixed = {name: Remat(tower.remat, tower.remat_keep) for name, tower in trained.items() if tower.remat != "auto"}
    if len(fixed) == len(trained):
        return None
    shapes = towers(config, model, kernels, mesh)
    share = partition.count_parameters(trainable) / partition.count_parameters(state.params)
    gradients = int(partition.device_bytes(state.params) * share)
    device = mesh.devices.flat[0]
    return Planner(
        {name: shapes[name] for name in trained},
        fixed,
        gradients,
        partition.device_bytes(state),
        memory_limit(device) if available is None else available,
        overhead=int(_TPU_OVERHEAD * gradients) if device.platform == "tpu" else 0,
        ahead=_TPU_AHEAD if device.platform == "tpu" else 0,
        # Layers under `full` are looped over there; of unrolled ones the compiler would hold more than the formula has.
        policies=("full",) if device.platform == "tpu" else ("dots", "full"),
    )
