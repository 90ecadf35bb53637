"""A small world with a computable reward, for the demo and the benchmarks."""
