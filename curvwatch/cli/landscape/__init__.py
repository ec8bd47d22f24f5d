"""Commands that evaluate the loss landscape after training."""
