"""Segmented backbones: the contract, their files, training, and running a tree of paths."""
