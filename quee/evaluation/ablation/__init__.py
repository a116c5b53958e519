"""Ablations: one grid of points, each departing from the experiment in one thing, on the feature cache; no network runs."""
