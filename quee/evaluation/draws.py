"""Intervals: the paired bootstrap over test samples and seeds at once.

A replicate draws samples, or groups of samples, with replacement and, independently, seeds. Resampling n seeds underestimates
their variance by the factor (n − 1)/n, so deviations are scaled by √(n/(n − 1)). Differences are paired: both methods are
measured on the same draw. Three seeds say only roughly how seeds vary.
"""

from dataclasses import dataclass

import numpy as np

from quee.intervals import interval, resamples
from quee.work.percentages import DIFFERENCE

LEVEL = 0.95


@dataclass(frozen=True)
class Draws:
    """Replicates R of a bootstrap."""

    samples: np.ndarray
    """(R, S) weights of the samples, rows summing to one."""
    seeds: np.ndarray
    """(R, n) weights of the seeds, rows summing to one."""

    @classmethod
    def of(cls, samples: int, seeds: int, repeats: int, seed: int, groups: np.ndarray | None = None) -> "Draws":
        """`groups` (S,) are drawn with all their samples."""
        drawn = np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), size=repeats)
        return cls(resamples(samples, repeats, seed, groups), drawn / seeds)

    def replicates(self, values: np.ndarray) -> np.ndarray:
        """Means (R, P) of values (seeds, S, P), or (1, S, P) where nothing is drawn by seed."""
        return self.over_seeds(np.stack([self.samples @ value for value in values]))

    def over_seeds(self, by_seed: np.ndarray) -> np.ndarray:
        """Means (R, P) over seeds of each seed's value in every replicate, (seeds, R, P)."""
        count = len(by_seed)
        if count == 1:
            only: np.ndarray = by_seed[0]
            return only
        if count != self.seeds.shape[1]:
            raise ValueError(f"values of {count} seeds, draws of {self.seeds.shape[1]}")
        apart = np.einsum("rn,nrp->rp", self.seeds - 1 / count, by_seed)
        widened: np.ndarray = by_seed.mean(axis=0) + np.sqrt(count / (count - 1)) * apart
        return widened


def simultaneous_band(
    mean: np.ndarray, replicates: np.ndarray, valid: tuple[float, float], level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Band around means (P,) that holds at all of them at once (max-|t|), from their replicates (R, P).

    The band is cut at the ends of the means' `valid` range.
    """
    spread = np.maximum(replicates.std(axis=0), 1e-9)
    critical = np.quantile(np.abs((replicates - mean) / spread).max(axis=1), level)
    return np.maximum(mean - critical * spread, valid[0]), np.minimum(mean + critical * spread, valid[1])


def paired(gain: np.ndarray, draws: Draws) -> list[dict[str, float]]:
    """Mean, 95 % interval, and band over all columns at once, for each column P of gains (seeds, S, P)."""
    mean, replicates = gain.mean(axis=(0, 1)), draws.replicates(gain)
    low, high = interval(replicates.clip(*DIFFERENCE))
    band_low, band_high = simultaneous_band(mean, replicates, DIFFERENCE)
    return [
        {"band_high": float(bh), "band_low": float(bl), "high": float(h), "low": float(lo), "mean": float(m)}
        for m, lo, h, bl, bh in zip(mean, low, high, band_low, band_high, strict=True)
    ]
