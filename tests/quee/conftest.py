"""A small untrained network, fitted on a few digits; execution must be right for any predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch

import quee
from quee.data.importers import import_dataset
from quee.network.architectures import create_backbone
from quee.runtime import AdaptiveClassifier, load_bundle

KWARGS = {"embed_dim": 16, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the digits."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    import_dataset("digits", None, folder)
    return folder


@pytest.fixture(scope="session")
def images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * 255 / 16).astype(np.uint8)[:500], digits.target[:500]


@pytest.fixture(scope="session")
def bundle(images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", (1, 2, 4), **KWARGS)
    out = tmp_path_factory.mktemp("fit") / "bundle"
    quee.fit(backbone, *images, out, precisions=["w4a4", "w8a8"], policy="fitted_q")
    return out


@pytest.fixture(scope="session")
def classifier(bundle: Path) -> AdaptiveClassifier:
    return load_bundle(bundle)
