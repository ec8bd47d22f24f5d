"""Permutations of hidden units that bring two networks together."""
