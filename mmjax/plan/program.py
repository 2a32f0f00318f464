"""The train step of a config, compiled ahead of time for a topology, and all that a plan takes from it."""

import dataclasses
import importlib.metadata
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from mmjax import tasks
from mmjax.config.field_origins import FieldOrigins
from mmjax.config.schema import RunConfig
from mmjax.data.loading import packing
from mmjax.data.text import make_tokenizer
from mmjax.errors import UserError
from mmjax.nn.config import LayersConfig
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import check_batch, make_mesh
from mmjax.plan import collectives, costs, cudnn, hlo, schedule, times
from mmjax.tasks import load_objective
from mmjax.training import build_step, compiler, data_summary, device_specs, validate_run
from mmjax.training import packing as training_packing
from mmjax.training import state as state_lib

_VERSIONS = ("jax", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
_LARGEST = 12  # kernels that are listed by themselves
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Setup:
    """A train step that has not been compiled.

    Attributes:
      config: the run's config.
      task: what is trained.
      mesh: of the topology's devices.
      device: their data sheet.
      state, batch: shapes with shardings, as the step takes them.
      step: the jitted step.
      remat: what `remat='auto'` stands for, by tower.
    """

    config: RunConfig
    task: Any
    mesh: jax.sharding.Mesh
    device: device_specs.Device
    state: state_lib.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    step: Any
    remat: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lower(self) -> jax.stages.Lowered:
        """Traces the step; no array is made."""
        device = self.mesh.devices.flat[0]
        with cudnn.answers_for(device):
            traced = self.step.trace(self.state, self.batch)
            # jax would lower for the process's own devices, which are the CPU's.
            return traced.lower(lowering_platforms=("cuda",)) if device.platform == "gpu" else traced.lower()


def make_setup(
    config: RunConfig,
    topology: Sequence[Any],
    text_length: float | None = None,
    flags: Collection[str] = (),
) -> Setup:
    """Builds what `training.train.prepare` builds up to the first step, with shapes in place of arrays.

    Args:
      config: a recipe's config; `data.train` may be empty where fields say how large all arrays are.
      topology: devices to compile for.
      text_length: tokens of a caption on average, for the program on packed or grouped texts; None for padded ones.
      flags: fields that the command line gives, where they are not the recipe's.

    Raises:
      UserError: a mistake in the config, or a mesh or batch that does not fit the topology.
    """
    # The training data is checked to be there, and looked at only where it alone says how large arrays are.
    is_shaped = config.data.train and tasks.shapes_of_data(config)
    metadata = tasks.read_dataset_metadata(config, tasks.open_mixture(config)) if is_shaped else tasks.DatasetMetadata()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=config.data.train or "none"))
    validate_run.check_config(config, FieldOrigins(tuple(flags)))
    mesh = make_mesh(config.mesh, topology)
    device = device_specs.find(topology[0].device_kind)
    if device is None or not device.memory:
        raise UserError(f"no data sheet of {topology[0].device_kind!r} in mmjax/training/device_specs.py")
    check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
    batch = tasks.batch_shapes(config, mesh, metadata=metadata)
    if text_length is not None:
        batch |= tasks.layout_shapes(_packer(config, mesh, text_length), batch["text"])
    # Which tokens stand for a mask and for nothing are constants: any tokenizer that has them gives the same program.
    masks_words = "masked_words" in load_objective.taught(config)
    tokenizer = make_tokenizer.make_tokenizer("words:shapes", 8) if masks_words else None
    task = tasks.Task(config, tasks.make_image_spec(config), tokenizer, mesh, metadata)
    with cudnn.answers_for(topology[0]):
        setup = build_step.make_setup(config, task, mesh)
    remat = {name: remat.label for name, remat in setup.remat.items()}
    return Setup(config, task, mesh, device, setup.state, batch, setup.step, remat)


def _packer(config: RunConfig, mesh: jax.sharding.Mesh, text_length: float) -> tasks.Packer:
    """What packs or groups texts of so many tokens on average.

    Raises:
      UserError: they are padded.
    """
    obstacle = "data.pack_texts='off'" if config.data.pack_texts == "off" else tasks.packing_obstacle(config)
    if obstacle:
        raise UserError(f"--text-length={text_length:g}: texts are padded: {obstacle}; leave it out")
    packer = tasks.make_packer(config, mesh)
    if training_packing.size_of(packer):
        return packer
    return packer.sized(packing.expected_lengths(text_length, tasks.text_length(config)))


def layers(group: Any, path: str = "") -> dict[str, LayersConfig]:
    """The parts of a model that have layers, by dotted path within it."""
    parts = {path: group} if isinstance(group, LayersConfig) else {}
    for name, value in _inner(group).items():
        parts |= layers(value, f"{path}.{name}" if path else name)
    return parts


def _inner(group: Any) -> Mapping[str, Any]:
    """The groups of fields in a group, by name."""
    if isinstance(group, Mapping):
        return group
    fields = dataclasses.fields(group) if dataclasses.is_dataclass(group) else ()
    return {field.name: getattr(group, field.name) for field in fields}


def _remat(setup: Setup) -> dict[str, str]:
    """What is recomputed, by part."""
    return {name: part.remat for name, part in layers(setup.config.model).items()} | dict(setup.remat)


def state_bytes(setup: Setup) -> dict[str, int]:
    """Bytes per chip of what stays from step to step, by kind."""
    state = setup.state
    return {
        "parameters": partition.device_bytes(state.params),
        "optimizer": partition.device_bytes(state.opt_state),
        "moving_average": partition.device_bytes(state.ema_params),
    }


def host_memory(setup: Setup) -> dict[str, Any]:
    """Bytes of batches on the host of each process: of one and of its arrays, and of those that are kept ready."""
    processes = len({device.process_index for device in setup.mesh.devices.flat})
    arrays = data_summary.host_bytes({name: x for name, x in setup.batch.items() if hasattr(x, "dtype")}, processes)
    batch, prefetch = sum(arrays.values()), setup.config.data.prefetch
    return {"processes": processes, "batch": batch, "arrays": arrays, "prefetch": prefetch, "ready": prefetch * batch}


def capacity(setup: Setup) -> tuple[int, float]:
    """The memory of a device that a program may use.

    Returns:
      Bytes, and their share of the device's: 1 on TPUs, whose data sheet here is what programs may use; on GPUs what
      a training run takes (`XLA_CLIENT_MEM_FRACTION`).

    Raises:
      UserError: that variable is no number from 0 to 1.
    """
    fraction = compiler.gpu_memory_share() if setup.mesh.devices.flat[0].platform == "gpu" else 1.0
    return int(setup.device.memory * fraction), fraction


def make_plan(setup: Setup, topology: str) -> dict[str, Any]:
    """Compiles a step and returns all that is known about it, in the form of the JSON file.

    Sizes are bytes per chip, times are seconds per step, FLOPs are per step.

    Args:
      setup: the step.
      topology: the name it was set up for.

    Raises:
      UserError: the compiler refuses for another reason than memory.
    """
    config, device, chips = setup.config, setup.device, setup.mesh.size
    plan = {
        "config": config.name,
        "topology": topology,
        "device": device.kind,
        "chips": chips,
        "mesh": dict(setup.mesh.shape),
        "batch_size": config.batch_size,
        "microbatch": config.microbatch,
        "remat": _remat(setup),
        "loss": config.loss.impl,
        "parameter_count": partition.count_parameters(setup.state.params),
        "versions": {name: version for name in _VERSIONS if (version := _version(name))},
        "host": host_memory(setup),
    }
    kinds = state_bytes(setup)
    forward = setup.task.flops_per_example()
    model_flops = None if forward is None else 3.0 * forward * config.batch_size
    room, plan["memory_fraction"] = capacity(setup)
    plan["device_memory"] = int(device.memory)
    plan["memory"] = kinds | {"capacity": room}
    plan["flops"] = {} if model_flops is None else {"model": model_flops}
    started = time.perf_counter()
    try:
        compiled = setup.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        plan["refusal"] = refusal(str(error))
        return plan | {"fits": False, "advice": advice(setup)}
    plan["compile_seconds"] = time.perf_counter() - started

    try:
        text = compiled.as_text()
        if text is None:
            raise ValueError("there is no text of it")
        plan |= read(setup, text, None if model_flops is None else model_flops / chips)
    except (ValueError, KeyError, IndexError) as error:
        versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
        raise UserError(f"cannot read the program that this compiler wrote ({versions}): {error!r}") from error
    activations = plan.pop("activations")
    plan["memory"] = memory(kinds, compiled.memory_analysis(), activations) | {"capacity": room}
    executed = {"chip": plan.pop("chip_flops"), "compiler_once": _cost(compiled).get("flops", 0.0)}
    plan["flops"] = plan["flops"] | executed
    plan["fits"] = plan["memory"]["total"] <= room
    return plan if plan["fits"] else plan | {"advice": advice(setup)}


def read(setup: Setup, text: str, model_flops: float | None) -> dict[str, Any]:
    """The entries of a plan that come from the text of the compiled program.

    Args:
      setup: the step that was compiled.
      text: `compiled.as_text()`.
      model_flops: of the model's three passes, per chip; None where nobody has counted them.
    """
    device, mesh_shape = setup.device, dict(setup.mesh.shape)
    hosts = [chip.process_index for chip in setup.mesh.devices.flat] if device.network_bandwidth else None
    module = hlo.parse(text)
    counted = costs.count(module, device.flops / device.float32_flops if device.float32_flops else 0.0)
    started = collectives.started(module, mesh_shape, hosts)
    listed = collectives.find(module, mesh_shape, hosts)
    reductions = schedule.gradient_reductions(module, started, counted.kernels)
    largest = sorted(counted.kernels, key=lambda kernel: -kernel.times * kernel.bytes)[:_LARGEST]
    return {
        "chip_flops": counted.flops,
        "recomputed_flops": counted.recomputed(),
        "activations": counted.activation_bytes,
        "hbm_bytes": counted.hbm_bytes,
        "kernels": counted.by_class(),
        "largest_kernels": [
            {field: getattr(kernel, field) for field in ("name", "kind", "times", "bytes", "op_name")}
            for kernel in largest
        ],
        "unknown_loops": list(counted.unknown_loops),
        "collectives": collectives.totals(listed),
        "each_collective": [dataclasses.asdict(collective) for collective in listed],
        "gradient_reductions": schedule.summary(module, reductions, counted.kernels),
        "roofline": times.roofline(counted, listed, device, model_flops),
        "prediction": times.predict(module, counted, started, device, model_flops),
    }


def memory(kinds: Mapping[str, int], analysis: Any, activations: int) -> dict[str, int]:
    """Splits the compiler's sizes by kind; the parts add up to its total.

    Args:
      kinds: bytes per chip of the state, by kind.
      analysis: `compiled.memory_analysis()`.
      activations: bytes kept for the backward pass, as `costs.count` finds them.

    Returns:
      `kinds`, then `inputs` (the batch, and what the layout pads the state with), `activations`, `temporaries` (the
      rest of what the compiler allocates for a step: gradients, workspace, new values that replace nothing),
      `program` and `total`.
    """
    extra = max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    working = analysis.temp_size_in_bytes + extra
    parts = dict(kinds)
    parts["inputs"] = max(0, analysis.argument_size_in_bytes - sum(kinds.values()))
    parts["activations"] = min(activations, working)
    parts["temporaries"] = working - parts["activations"]
    parts["program"] = analysis.generated_code_size_in_bytes
    return parts | {"total": sum(parts.values())}


def refusal(message: str) -> dict[str, Any]:
    """The compiler's refusal of a program that does not fit.

    Returns:
      `needs` and `has` in bytes, where its message has them, and `says`, its first line.

    Raises:
      UserError: it is another error.
    """
    text = " ".join(message.split("\n\n")[0].split())
    if "RESOURCE_EXHAUSTED" not in text:
        raise UserError(f"the compiler refuses the program: {text[:300]}")
    sizes = re.search(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)", text) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text
    )
    result: dict[str, Any] = {"says": text.partition("RESOURCE_EXHAUSTED:")[2].strip()}
    if sizes:
        result["needs"] = int(float(sizes[1]) * _UNITS[sizes[2]])
        result["has"] = int(float(sizes[3]) * _UNITS[sizes[4]])
    return result


def advice(setup: Setup) -> list[str]:
    """What would make a step smaller, as flags; the cheapest first."""
    config, mesh = setup.config, setup.mesh
    options = []
    for part, remat in _remat(setup).items():
        if remat != "full":
            options.append(f"--config.model.{part}.remat=full")
    rows = config.batch_size // mesh_lib.batch_devices(mesh)
    if rows % (2 * config.microbatch) == 0:
        options.append(f"--config.microbatch={2 * config.microbatch}")
    if mesh.shape["data"] % 2 == 0:
        options.append(f"--config.mesh.fsdp={2 * mesh.shape['fsdp']}")
    if config.optimizer.momentum_dtype != "bfloat16":
        options.append("--config.optimizer.momentum_dtype=bfloat16")
    if setup.mesh.devices.flat[0].platform == "gpu" and capacity(setup)[1] < compiler.GPU_MEMORY:
        options.insert(0, f"{compiler.MEMORY_VARIABLES[0]}={compiler.GPU_MEMORY} in the environment")
    return [*options, "more chips, or a smaller batch_size"]


def _cost(compiled: Any) -> Mapping[str, float]:
    analysis = compiled.cost_analysis() or {}
    return analysis[0] if isinstance(analysis, (list, tuple)) else analysis


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
