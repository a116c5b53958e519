"""Images and labels of a batch are mixed by the same shares."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from quee.network.mixing import mixed
from quee.settings.backbone import Augmentation

LABELS = torch.arange(6)
PLAIN = functional.one_hot(LABELS, 6).float()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_an_image_holds_as_much_of_each_class_as_its_label_says(kind: str) -> None:
    images = PLAIN[:, :, None, None].expand(6, 6, 10, 14).clone()  # each pixel is its own label
    targets, random = set(), np.random.default_rng(0)
    for _ in range(50):
        found, target = mixed(images, LABELS, 6, Augmentation.model_validate({kind: 0.8}), random)
        assert torch.allclose(found.mean(dim=(2, 3)), target, atol=1e-6)
        assert torch.allclose(target.sum(dim=1), torch.ones(6))
        whole = set(found.unique().tolist()) <= {0.0, 1.0}
        assert whole == (kind == "cutmix") or torch.equal(target, PLAIN)
        targets.add(tuple(target.flatten().tolist()))
    assert len(targets) > 40
    assert torch.equal(images.mean(dim=(2, 3)), PLAIN), "the batch itself is left as it was"


def test_batches_are_mixed_as_often_as_asked_for_and_by_either() -> None:
    images, random = PLAIN[:, :, None, None].expand(6, 6, 8, 8).clone(), np.random.default_rng(0)
    settings = Augmentation(mixup=1.0, cutmix=1.0, mixed=0.7)
    kinds = {"plain": 0, "cut": 0, "blended": 0}
    for _ in range(400):
        found, target = mixed(images, LABELS, 6, settings, random)
        whole = set(found.unique().tolist()) <= {0.0, 1.0}
        kinds["plain" if torch.equal(target, PLAIN) else "cut" if whole else "blended"] += 1
    assert 90 < kinds["plain"] < 180 and 90 < kinds["cut"] < 180 and 90 < kinds["blended"] < 180


def test_nothing_is_mixed_and_nothing_drawn_where_both_are_off() -> None:
    images, random = torch.rand(6, 1, 4, 4), np.random.default_rng(0)
    found, target = mixed(images, LABELS, 6, Augmentation(), random)
    assert found is images and torch.equal(target, PLAIN)
    assert random.random() == np.random.default_rng(0).random()
