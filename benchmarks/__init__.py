"""Benchmarks: the definitions, the tuned versions and the frameworks side by side, checked before they are timed.

    python -m benchmarks --help

`workloads` says what is compared, on which `inputs`, and `peers` has the frameworks' versions; `measure` is the process
that verifies and times (`timing`, `memory`) and believes nothing (`honesty`); `gpu_work` has the sizes for a GPU;
`report` prints and writes results, `plots` and `page` draw them, `guard` compares them with those in results/, `aims`
says what they should reach. `static` looks at compiled CUDA kernels; `triton_kernels` has Triton's, which it compiles
and `peers` launches.
"""
