"""Segmented backbones: the contract, their files, training, and running a tree of paths."""

HEAD = 0
"""Segment number of a backbone's own head; segments are counted from 1."""
