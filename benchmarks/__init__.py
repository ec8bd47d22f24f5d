"""What a reading costs and how good it is, beside other tools: `python -m benchmarks`."""
