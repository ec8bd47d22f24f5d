"""Paths between minima, and the loss along them."""
