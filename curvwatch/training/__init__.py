"""One reading, from whether it is due to where it is recorded."""
