"""What an experiment's YAML may say: one block per stage."""
