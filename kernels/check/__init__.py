"""The check of the CUDA kernels: calls, float64 definitions, the errors that arithmetic allows, and the command.

python -m minilm.kernels check        on the GPU at hand, in the order of what it tells, within minutes
"""
