"""Commands that look at the loss landscape after training."""
