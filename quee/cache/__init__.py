"""The feature cache: one row per sample and node."""
