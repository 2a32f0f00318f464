"""FLOPs of a compiled program's matrix products, convolutions and fused attention."""

import functools
import math
import re

from mmjax.plan import hlo

# How many bfloat16 passes a TPU makes for a float32 matrix product of that precision (DEFAULT, HIGH, HIGHEST).
_TPU_PASSES = {"default": 1, "high": 3, "highest": 6}
# NVIDIA's matrix units take float32 as TF32, at half the rate; HIGHEST is computed outside of them.
_TF32_PASSES = 2
# Matrix products of fused attention: logits and output; with them done again, gradients of logits, q, k and v.
_ATTENTION_PRODUCTS = {"forward": 2, "backward": 5}
# What `nn.tpu_attention` calls its kernels.
_TPU_ATTENTION = "fused_attention_"


def flops(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    """A multiplication and an addition for each product that is not with padding or a hole of dilation.

    Fused attention counts all pairs of queries and keys, masked ones too.
    """
    target = instruction.attribute("custom_call_target") or ""
    operand = lambda index: hlo.array(computation.shape_of(instruction.operands[index]))
    if instruction.opcode == "dot":
        return _dot(operand(0), hlo.array(instruction.shape), instruction.attribute("lhs_contracting_dims") or "")
    if instruction.opcode == "convolution":
        return _convolution(instruction, operand(0), operand(1), next(hlo.leaves(instruction.shape)))
    if target == "tpu_custom_call":  # as its author counts it
        estimate = re.search(r'"cost_estimate":\{"flops":"?(\d+)', instruction.attributes)
        return float(estimate[1]) if estimate else 0.0
    if is_attention(instruction):
        return _attention(instruction, operand(0))
    if target.startswith("__cublas$"):
        contracted = hlo.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', instruction.attributes)
        return _dot(operand(0), next(hlo.leaves(instruction.shape)), contracted[1].replace('"', ""))
    if target.startswith("__cudnn$conv"):  # the roles are those of the forward convolution
        result = next(hlo.leaves(instruction.shape))
        if target == "__cudnn$convBackwardInput":
            return _convolution(instruction, result, operand(1), operand(0))
        if target == "__cudnn$convBackwardFilter":
            return _convolution(instruction, operand(0), result, operand(1))
        return _convolution(instruction, operand(0), operand(1), result)
    return 0.0


def is_attention(instruction: hlo.Instruction) -> bool:
    """Whether it is a fused attention kernel: cuDNN's, or mmjax's for TPUs."""
    target = instruction.attribute("custom_call_target") or ""
    return target.startswith("__cudnn$fmha") or (target == "tpu_custom_call" and _TPU_ATTENTION in instruction.op_name)


def is_product(instruction: hlo.Instruction) -> bool:
    """Whether it is a matrix product or a convolution."""
    target = instruction.attribute("custom_call_target") or ""
    return instruction.opcode in ("dot", "convolution") or target.startswith(("__cublas$", "__cudnn$conv"))


def passes(computation: hlo.Computation, instruction: hlo.Instruction, float32_passes: float = 0.0) -> float:
    """How many times as long as bfloat16 the matrix units take for its numbers.

    Args:
      computation: what it stands in.
      instruction: a product.
      float32_passes: bfloat16 peak over float32 peak where the matrix units have no full float32 (NVIDIA); 0 where
        they pass over it several times (TPUs).
    """
    if not is_product(instruction):
        return 1
    if any(hlo.array(computation.shape_of(operand)).bits <= 16 for operand in instruction.operands[:2]):
        return 1
    precision = re.search(r'operand_precision"?[=:]\s*[\[{]"?(\w+)', instruction.attributes)
    precision = precision[1].lower() if precision else "default"
    if float32_passes:
        return float32_passes if precision == "highest" else _TF32_PASSES
    return _TPU_PASSES.get(precision, 1)


def _dot(lhs: hlo.ArrayType, result: hlo.ArrayType, contracted: str) -> float:
    axes = [int(axis) for axis in contracted.split(",") if axis.strip()]
    return 2.0 * math.prod(result.dims) * math.prod(lhs.dims[axis] for axis in axes)


def _attention(instruction: hlo.Instruction, q: hlo.ArrayType) -> float:
    sizes = hlo.search(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]', instruction.attributes)
    batch, heads, queries, keys = (int(size) for size in sizes[1].replace('"', "").split(","))
    kind = "backward" if "Backward" in instruction.required("custom_call_target") else "forward"
    head_dim = math.prod(q.dims) // (batch * heads * queries)
    return 2.0 * _ATTENTION_PRODUCTS[kind] * batch * heads * queries * keys * head_dim


def _convolution(instruction: hlo.Instruction, lhs: hlo.ArrayType, rhs: hlo.ArrayType, output: hlo.ArrayType) -> float:
    lhs_labels, rhs_labels, out_labels = hlo.search(r"(\w+)_(\w+)->(\w+)", instruction.required("dim_labels")).groups()
    window = _window(instruction.attribute("window") or "")
    groups = int(instruction.attribute("batch_group_count") or 1)
    products = lhs.dims[lhs_labels.index("b")] / groups
    products *= rhs.dims[rhs_labels.index("i")] * rhs.dims[rhs_labels.index("o")]
    for axis in range(sum(label.isdigit() for label in out_labels)):
        sizes = (dims.dims[labels.index(str(axis))] for dims, labels in
                 ((lhs, lhs_labels), (rhs, rhs_labels), (output, out_labels)))  # fmt: skip
        option = {name: values[axis] for name, values in window.items()}
        products *= _meetings(*sizes, **option)
    return 2.0 * products


def _window(text: str) -> dict[str, list]:
    """`size=3x2 stride=1x2 pad=0_0x2_2 lhs_dilate=..`, in the names of `_meetings`."""
    names = {"stride": "stride", "pad": "pad", "lhs_dilate": "lhs_dilation", "rhs_dilate": "rhs_dilation"}
    window = {}
    for part in text.split():
        name, _, values = part.partition("=")
        if name in names:
            window[names[name]] = [int(value.split("_")[0]) for value in values.split("x")]
    return window


@functools.lru_cache
def _meetings(
    size: int, kernel: int, output: int, *, stride: int = 1, pad: int = 0, lhs_dilation: int = 1, rhs_dilation: int = 1
) -> int:
    """Along one axis: how many (output, kernel) positions meet an element of the input.

    XLA writes batched matrix products as convolutions with dilation, in which most positions meet nothing.
    """
    if (stride, pad, lhs_dilation, rhs_dilation) == (1, 0, 1, 1):
        return output * kernel
    met = 0
    for k in range(kernel):
        for o in range(output):
            position = o * stride + k * rhs_dilation - pad
            met += (
                0 <= position < size * lhs_dilation and position % lhs_dilation == 0 and position // lhs_dilation < size
            )
    return met
