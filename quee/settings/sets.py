"""Names that settings and stages share: the splits, and from which official set each is taken.

This module imports nothing, so that settings are checked fast.
"""

SPLITS = ("train", "predictor", "validation", "certification", "test")
"""Disjoint splits; `calibration` is a subset of `train`."""

DATASET = "dataset"
"""Key of resolved settings under which stands what is known of the data set; the others are blocks."""


def sets_of(evaluation_set: str) -> tuple[tuple[str, ...], ...]:
    """Splits taken from the official training set, and those from the evaluation set; all in one where they are pooled."""
    if evaluation_set == "pooled":
        return (SPLITS,)
    cut = 1 if evaluation_set == "held_out" else len(SPLITS) - 1
    return SPLITS[:cut], SPLITS[cut:]
