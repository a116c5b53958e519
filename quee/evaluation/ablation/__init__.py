"""Ablations: a grid of points on the feature cache, each of which changes one thing in the experiment. No network runs."""
