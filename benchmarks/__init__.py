"""Speed and size, as ratios measured in one run on one machine: `python -m benchmarks NAME [--json]`.

A benchmark is a module here with `run(runs: int) -> Result`. Nothing in the package imports this.
"""
