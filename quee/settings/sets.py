"""Names for settings and stages: the splits, and the official set from which each is taken.

This module imports nothing, so that checking settings is fast.
"""

SPLITS = ("train", "predictor", "validation", "certification", "test")
"""Disjoint splits; `calibration` is a subset of `train`."""

HELD_OUT = tuple(name for name in SPLITS if name != "train")

DATASET = "dataset"
"""Key of resolved settings with the facts of the data set; the other keys are blocks."""


def sets_of(evaluation_set: str) -> tuple[tuple[str, ...], ...]:
    """Splits from the official training set, and splits from the evaluation set; all in one group where the sets are pooled.

    With `never_seen` the training samples that the weights have seen and those that they have not are two sets.
    """
    if evaluation_set == "pooled":
        return (SPLITS,)
    if evaluation_set == "never_seen":
        return SPLITS[:1], SPLITS[1:-1], SPLITS[-1:]
    cut = 1 if evaluation_set == "held_out" else len(SPLITS) - 1
    return SPLITS[:cut], SPLITS[cut:]
