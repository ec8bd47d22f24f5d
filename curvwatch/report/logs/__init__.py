"""Runs, read back from the logs of TensorBoard, W&B, CSV files and saved histories."""
