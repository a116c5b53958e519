"""Linear probes: features are computed once, and only the data and the seed decide the fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.errors import UsageError
from quee.network import probe
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.probe import features, fit_probe
from quee.settings.backbone import Backbone

NAME = "vit_small_patch14_dinov2.lvd142m"
SMALL: dict[str, Any] = {"img_size": 28, "depth": 4, "embed_dim": 16, "num_heads": 2, "num_classes": 3}
SETTINGS = Backbone(
    name=NAME, mode="linear_probe", weights="mine", epochs=20, batch_size=16, learning_rate=0.02, warmup_epochs=0.0
)
IDS = {"train": np.arange(40, 88), "validation": np.arange(20)}


def new_backbone(**kwargs: Any) -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone(NAME, **{**SMALL, **kwargs})


def image(sample: int) -> Tensor:
    noise = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(sample))
    return 0.3 * noise + torch.eye(3)[sample % 3][:, None, None] * 2


class Batches:
    """Three classes that differ in colour; counts the images given out."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.given, self.kill_at = 0, kill_at

    def __call__(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        for rows in np.array_split(ids, 2):
            self.given += len(rows)
            if self.kill_at is not None and self.given > self.kill_at:
                raise KeyboardInterrupt
            yield rows, torch.stack([image(int(i)) for i in rows]), torch.from_numpy(rows % 3)


@pytest.mark.parametrize("layers", [1, 4])
def test_features_are_class_tokens_and_the_mean_patch_token(layers: int, tmp_path: Path) -> None:
    backbone = new_backbone(layers=layers)
    x, y = features(backbone, IDS["train"], Batches(), tmp_path, False)
    assert x.shape == (48, (1 + layers) * 16)
    assert y.tolist() == [i % 3 for i in IDS["train"]]
    with torch.inference_mode():
        images = torch.stack([image(int(i)) for i in IDS["train"]])
        state = backbone.get_submodule("norm")(backbone.forward_to(backbone.segments, images))
        expected = backbone.pool(state, 1, "cls_mean").numpy()
    np.testing.assert_allclose(x[:, -32:], expected, atol=1e-5)


def test_a_probe_fits_the_head_alone_and_well(tmp_path: Path) -> None:
    backbone, untouched = new_backbone(), new_backbone()
    history = fit_probe(backbone, SETTINGS, IDS, Batches(), tmp_path)
    assert history.columns()["validation_accuracy"][-1] > 0.9
    moved = [k for k, v in backbone.state_dict().items() if not torch.equal(v, untouched.state_dict()[k])]
    assert moved == ["head.weight", "head.bias"]
    assert not any(p.requires_grad for p in backbone.parameters())
    with torch.inference_mode():
        logits = backbone(torch.stack([image(i) for i in range(20)]))
    assert (logits.argmax(dim=1) == torch.arange(20) % 3).float().mean() > 0.9


def test_features_are_computed_once_and_a_killed_probe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SHARD", 16)
    undisturbed, counted = new_backbone(), Batches()
    history = fit_probe(undisturbed, SETTINGS, IDS, counted, tmp_path / "a")
    assert counted.given == 68  # twenty epochs, every image once
    resumed, rest = new_backbone(), Batches()
    with pytest.raises(KeyboardInterrupt):
        fit_probe(resumed, SETTINGS, IDS, Batches(kill_at=40), tmp_path / "b")
    resumed = new_backbone()
    again = fit_probe(resumed, SETTINGS, IDS, rest, tmp_path / "b")
    assert rest.given == 68 - 32
    assert again.rows == history.rows
    assert all(torch.equal(v, undisturbed.state_dict()[k]) for k, v in resumed.state_dict().items())


def test_two_heads_are_no_linear_probe(tmp_path: Path) -> None:
    kwargs = {"img_size": 32, "embed_dim": 16, "num_heads": 2, "depth": 1, "num_classes": 3}
    backbone = create_backbone("deit_tiny_distilled_patch16_224", **kwargs)
    with pytest.raises(UsageError, match="needs one linear head"):
        fit_probe(backbone, SETTINGS, IDS, Batches(), tmp_path)
