"""A small untrained network, fitted on a few digits; execution must be right for any predictions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import made_once

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
    """A bundle that tests do not change; each worker has a copy, beside which profiles are written."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        backbone = create_backbone("vit_digits", (1, 2, 4), **KWARGS)
        quee.fit(backbone, *images, folder / "bundle", precisions=["w4a4", "w8a8"], policy="fitted_q")

    copy = tmp_path_factory.mktemp("fit") / "bundle"
    return Path(shutil.copytree(made_once(tmp_path_factory, "fit", make) / "bundle", copy))


@pytest.fixture(scope="session")
def classifier(bundle: Path) -> AdaptiveClassifier:
    return load_bundle(bundle)
