"""Weights that are saved while a network trains."""
