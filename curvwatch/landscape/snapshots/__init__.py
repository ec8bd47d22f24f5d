"""Weights of a few steps of a run, kept for the landscape; the callback is `callback.Snapshots`."""

from curvwatch.landscape.snapshots.files import Snapshot, snapshots_in

__all__ = ["Snapshot", "snapshots_in"]
