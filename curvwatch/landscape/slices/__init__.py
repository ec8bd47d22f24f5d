"""Slices of the loss landscape along one or two directions."""
