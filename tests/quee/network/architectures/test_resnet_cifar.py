"""ResNet for CIFAR against a plain re-statement of the published network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from quee.cost import trace_cost
from quee.data.weights import import_weights
from quee.data.weights_facts import weights_facts
from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.network.architectures.resnet_cifar import DEPTHS, named

Weights = dict[str, Tensor]


def random_weights(name: str, **kwargs: object) -> Weights:
    """Weights and statistics of no special values, of a size at which every block counts."""
    random = torch.Generator().manual_seed(0)
    state = create_backbone(name, **kwargs).state_dict()
    found = {}
    for key, value in state.items():
        drawn = torch.randn(value.shape, generator=random) if value.is_floating_point() else value
        if key.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif value.dim() > 1:
            drawn = drawn / value[0].numel() ** 0.5
        found[key] = drawn
    return found


def published(w: Weights, x: Tensor, blocks: int, option: str) -> Tensor:
    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.relu(norm("bn1", F.conv2d(x, w["conv1.weight"], padding=1)))
    for stage in (1, 2, 3):
        for block in range(blocks // 3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(f"{name}.bn1", F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1)))
            y = norm(f"{name}.bn2", F.conv2d(y, w[f"{name}.conv2.weight"], padding=1))
            if stride == 2 and option == "A":
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            elif stride == 2:
                x = norm(f"{name}.shortcut.1", F.conv2d(x, w[f"{name}.shortcut.0.weight"], stride=2))
            x = F.relu(y + x)
    return F.linear(x.mean(dim=(2, 3)), w["head.weight"], w["head.bias"])


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet56_cifar"])
@torch.inference_mode()
def test_outputs_are_the_published_networks(name: str, option: str) -> None:
    weights = random_weights(name, shortcut=option)
    backbone = create_backbone(name, shortcut=option)
    backbone.load_state_dict(weights)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = published(weights, images, DEPTHS[name], option)
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [("resnet20_cifar", 20, 0.27), ("resnet32_cifar", 32, 0.46), ("resnet44_cifar", 44, 0.66),
     ("resnet56_cifar", 56, 0.85), ("resnet110_cifar", 110, 1.7)],
)  # fmt: skip
def test_size_is_as_published(name: str, layers: int, millions: float) -> None:
    backbone = create_backbone(name)
    assert len(trace_cost(backbone).products) == layers
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_widths_are_those_of_the_stages() -> None:
    backbone = create_backbone("resnet20_cifar", gates=(1, 3, 4, 6, 9))
    assert [backbone.width(gate) for gate in range(1, 6)] == [16, 16, 32, 32, 64]
    assert [backbone.forward_to(gate, torch.zeros(1, 3, 32, 32)).shape[2] for gate in (2, 3, 5)] == [32, 16, 8]


@pytest.mark.parametrize("kwargs", [{}, {"shortcut": "B"}, {"depth": 6, "in_chans": 1}])
def test_weights_say_which_backbone_they_are_of(kwargs: dict[str, object], tmp_path: Path) -> None:
    given = {"num_classes": 7, **kwargs}
    state = {k: v for k, v in random_weights("resnet32_cifar", **given).items() if "num_batches" not in k}
    theirs = {f"module.{key.replace('head.', 'linear.')}": value for key, value in state.items()}
    torch.save({"state_dict": theirs, "best_prec1": 91.7}, tmp_path / "model.th")
    import_weights(None, tmp_path / "model.th", tmp_path / "mine.safetensors")
    facts = weights_facts(tmp_path / "mine.safetensors")
    name = "resnet20_cifar" if "depth" in kwargs else "resnet32_cifar"
    assert (facts.backbone, facts.kwargs) == (name, kwargs)
    assert named(state) == (name, kwargs)


def test_a_file_that_says_no_backbone_needs_one(tmp_path: Path) -> None:
    torch.save(create_backbone("vit_digits", depth=1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="does not tell its backbone: give --backbone NAME"):
        import_weights(None, tmp_path / "w.pth", tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shortcut": "C"}, "one of A, B; got 'C'"),
        ({"num_classes": 0}, "num_classes"),
        ({"depth": 0}, "at least 1 block"),
        ({"img_size": 0}, "img_size"),
        ({"in_chans": 2}, "in_chans 2"),
    ],
)
def test_what_cannot_be_built_is_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_backbone("resnet20_cifar", **kwargs)
