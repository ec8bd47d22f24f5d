"""When readings are due, and what they may cost."""
