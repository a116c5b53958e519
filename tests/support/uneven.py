"""Values to quantize."""

import numpy as np


def drawn(seed: int, size: int = 2000) -> np.ndarray:
    """Values with unequal tails, of a scale that differs by seed, (size,)."""
    random = np.random.default_rng(seed)
    values = random.normal(random.uniform(-1, 1), 1, size) * np.exp(random.uniform(-5, 5))
    return np.where(values > 0, values * random.uniform(0.2, 3), values).astype(np.float32)
