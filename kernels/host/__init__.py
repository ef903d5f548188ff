"""Run the CUDA sources on the CPU: the same file, compiled as C++, one fiber per CUDA thread."""
