"""Looking rows up in a table by an index that may be traced."""

from typing import Any

import numpy as np


def looked_up(table: np.ndarray, index: Any, *others: Any) -> Any:
    """`table[index, *others]`, for indices of samples in code that is also traced (`quee.export.traced`).

    NumPy gives an index no say in `table[index]`, so a traced one is asked here. Plain indexing of an array takes a fraction
    of the time of `np.take`, which matters for one sample.
    """
    own = getattr(index, "looked_up_in", None)
    if own is not None:
        return own(table, *others)
    return table[(index, *others)] if others else table[index]
