"""Settings of an experiment's YAML: one block per stage."""
