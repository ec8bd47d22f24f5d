"""Lightning: its hooks, its private attributes, its processes."""
