"""Use of a module that leaves no trace on it."""
