"""One thread, the same draws and hypothesis examples in every run, and as many workers as cores."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

from quee.work.threads import cores, free_memory

WORKER_BYTES = 3 << 30
"""What a worker takes at most."""

torch.set_num_threads(1)
settings.register_profile("quee", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("quee")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws does not depend on the tests before it, which differ from worker to worker."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: the cores that this process may use, at most 8, and as many workers as have room in memory."""
    room = 8 if (free := free_memory()) is None else free // WORKER_BYTES
    return max(1, min(cores(), room, 8))
