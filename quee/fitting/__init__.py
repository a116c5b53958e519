"""What `quee.fit` checks and prepares."""
