"""Benchmarks: pyrolvm beside its peers, on one machine, in turns."""
