"""The check of the CUDA kernels: a table of calls, their float64 definitions, and the errors that arithmetic allows."""
