import numpy as np
import torch
from torch import nn

from quee.network.asking import ask


def test_answers_come_in_the_order_of_the_batches_and_none_without_any() -> None:
    network = nn.Linear(3, 3, bias=False)
    network.weight.data = torch.eye(3)
    wanted = np.array([2, 0, 1, 1, 0])
    x = torch.eye(3)[torch.from_numpy(wanted)]
    assert np.array_equal(ask(network, iter(x.split(2))), wanted)
    assert ask(nn.Identity(), [x]).tolist() == wanted.tolist()
    assert ask(network, []).shape == (0,)
