"""A loop of the user's own: its step, its gradients, its wrappers."""
