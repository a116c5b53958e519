"""Samples on which weights were fitted, by their ids, and the refusal of held-out splits that contain them.

Weights added today record keys of what they have seen (`quee.data.identity`); the ids here are those of files that earlier
versions wrote.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from quee.errors import UsageError


@dataclass(frozen=True)
class Fitted:
    """Samples of one data set."""

    dataset: str
    files: Mapping[str, str]
    """SHA-256 by file, as in `dataset.json`; the sample ids are row numbers of these files."""
    ids: np.ndarray
    """(n,) rising sample ids."""

    def text(self) -> str:
        """The form kept in a weights file; neighbouring ids are written `first-last`."""
        return json.dumps(
            {"dataset": self.dataset, "files": dict(self.files), "ids": as_runs(self.ids)}, sort_keys=True
        )

    @classmethod
    def read(cls, text: str) -> "Fitted":
        found = json.loads(text)
        return cls(found["dataset"], found["files"], from_runs(found["ids"]))

    def refuse_other_files(self, name: str, files: Mapping[str, str]) -> None:
        """Raises UsageError where the ids are those of other files than `files`, given with their digests."""
        if dict(files) != dict(self.files):
            raise UsageError(
                f"backbone.weights: {name!r} was fitted on samples of other files of {self.dataset} than are here, so that "
                "nobody can tell which of them it has seen; take weights that were fitted on these"
            )


def refuse_held_out(name: str, seen: np.ndarray, held_out: Mapping[str, np.ndarray]) -> None:
    """Raises UsageError where any of the held-out samples, ids (n,) by split, are among the ids `seen` (m,) by weights `name`."""
    counts = {split: int(np.isin(ids, seen).sum()) for split, ids in held_out.items()}
    if any(counts.values()):
        told = ", ".join(f"{count} of {len(held_out[split])} in {split}" for split, count in counts.items() if count)
        raise UsageError(
            f"backbone.weights: {name!r} was fitted on samples that are held out here ({told}); give the `prepare` of "
            "the experiment that trained it, or other weights"
        )


def as_runs(ids: Iterable[int]) -> str:
    """Rising whole numbers in the form `0-3,7,9-11`."""
    rising = np.asarray(list(ids), np.int64)
    if not len(rising):
        return ""
    parts = np.split(rising, np.flatnonzero(np.diff(rising) != 1) + 1)
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in parts)


def from_runs(text: str) -> np.ndarray:
    """Reads the form that `as_runs` writes; raises ValueError for any other."""
    ends = [part.partition("-") for part in text.split(",") if part]
    runs = [np.arange(int(first), int(last or first) + 1) for first, _, last in ends]
    found = np.concatenate(runs) if runs else np.zeros(0, np.int64)
    if any(not len(run) for run in runs) or (np.diff(found) <= 0).any():
        raise ValueError(f"ids {text[:40]!r} do not rise")
    return found
