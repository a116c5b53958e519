"""One thread, and the same hypothesis examples in every run."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("quee", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("quee")
