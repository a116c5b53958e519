"""An architecture for tests: convolutions whose states are maps, 16 channels wide at gate 1 and 32 at gate 2."""

from torch import Tensor, nn

from quee.data.preprocessing import Preprocessing
from quee.network.base import SegmentedBackbone

WIDTHS = (16, 32)


class ToyConvNet(SegmentedBackbone):
    head_modules = ("head",)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.input, self.num_classes = Preprocessing((8, 8), mean=(0.3,), std=(0.4,)), num_classes
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GELU())
        pairs = ((16, 16), (16, 32))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GELU()) for a, b in pairs)
        self.head = nn.Linear(32, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def classify(self, state: Tensor) -> Tensor:
        return self.head(self.pool(state, 2, "mean"))

    def width(self, gate: int) -> int:
        return WIDTHS[gate - 1]


def create(name: str, **kwargs: int) -> ToyConvNet:
    return ToyConvNet(**kwargs)
