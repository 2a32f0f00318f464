"""Descriptions of NVIDIA GPUs for XLA's compiler, as a driver would give them.

Limits of threads, registers and shared memory are those of the compute capability (CUDA C++ Programming Guide,
"Technical Specifications per Compute Capability"); multiprocessors, L2 and clock are those that
`cudaGetDeviceProperties` reports of the SXM module, as XLA publishes them for the same purpose (github.com/openxla/xla,
xla/backends/gpu/target_config/specs: a100_sxm_80, h100_sxm, h200, b200). Memory is what the driver reports, a little
less than the data sheet's.
"""

import dataclasses

# The cuDNN that compiling takes to be there; jax asks for its version before it uses fused attention.
CUDNN = (9, 20)


@dataclasses.dataclass(frozen=True)
class Target:
    """One GPU.

    Attributes:
      kind: jax's `device_kind`.
      capability: compute capability.
      cores: streaming multiprocessors.
      lanes: float32 units of one of them.
      shared_memory: bytes of one of them; a block may have 1,024 fewer.
      l2: bytes.
      clock: boost, GHz.
      memory: bytes, as the driver reports them.
      bandwidth: of the memory, bytes/s.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    shared_memory: int
    l2: int
    clock: float
    memory: int
    bandwidth: int

    def text(self) -> str:
        """XLA's `GpuTargetConfigProto` in text form."""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_memory}
  shared_memory_per_block_optin: {self.shared_memory - 1024}
  l2_cache_size: {self.l2} device_memory_size: {self.memory} memory_bandwidth: {self.bandwidth}
  cuda_compute_capability {{ major: {self.capability[0]} minor: {self.capability[1]} }}
}}
runtime_version: {{ major: 13 minor: 0 patch: 0 }}
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} }}
platform_name: "CUDA"
device_description_str: "{self.kind}"
"""


TARGETS = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 41943040, 1.41, 85100068864, 2039040000000
    ),
    "h100": Target(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 52428800, 1.98, 84942979072, 3352320000000
    ),
    "h200": Target("NVIDIA H200", (9, 0), 132, 128, 233472, 52428800, 1.98, 151397597184, 4800000000000),
    "b200": Target("NVIDIA B200", (10, 0), 148, 128, 233472, 132644864, 1.965, 191514411008, 7672320000000),
}  # fmt: skip
