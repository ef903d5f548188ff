"""Run the CUDA sources on the CPU: the same file, compiled as C++, one fiber per CUDA thread.

fibers.h     the machine: a fiber's state, its barriers and exchanges, shared memory
scheduler.h  runs the fibers of a grid, block after block; checks.h names what they must not do
cuda_cpu.h   the language: built-in variables, vector types, intrinsics; cuda_fp16.h and cuda_bf16.h beside it
builder.py   compiles a source, keeps it in a cache, and calls its kernels on NumPy arrays
guards.py    copies the arrays of a launch between zones that nobody may touch
sanitize.py  runs Python code under AddressSanitizer or ThreadSanitizer
"""

from minilm.kernels.host.builder import CompileError as CompileError, compiler_problem as compiler_problem
from minilm.kernels.host.builder import host_options as host_options
from minilm.kernels.host.guards import KernelError as KernelError
