"""Benchmarks: the definitions, the tuned versions and the frameworks side by side, checked before they are timed.

    python -m benchmarks attention               one workload
    python -m benchmarks all --against torch     everything, with PyTorch as a peer where it is installed

`timing` takes the times, `workloads` says what is compared, `report` prints and writes the results.
"""
