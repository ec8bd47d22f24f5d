"""What becomes of a reading: history, loggers, alerts and advice."""
