"""Ablations: a grid of points on the feature cache. Each point changes one thing in the experiment. No network runs."""
