"""CUDA C++ kernels and their launchers: fused softmax, softmax-cross-entropy and attention.

Each launcher takes the arguments of its op and runs on the arrays it is given: CuPy arrays on the GPU, NumPy arrays on
the CPU from the very same source (`minilm.kernels.host`), slowly and exactly, for tests and for stepping through.
"""
