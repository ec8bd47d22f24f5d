"""All readings of some short runs, kept to be compared bit for bit: `python -m benchmarks.golden`."""
