"""The C++ example answers as quee does. It is skipped where the compiler or ONNX Runtime's headers are missing."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_digits

import quee
from quee.runtime import AdaptiveClassifier, Options, load_bundle
from quee.work.io import json_bytes, read_json

SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "classify.cpp"
HEADER = "onnxruntime_cxx_api.h"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
INCLUDE = next(
    (p for p in (os.environ.get("ONNXRUNTIME_INCLUDE", ""), *PLACES) if p and (Path(p) / HEADER).is_file()), ""
)
LIBRARY = next(iter(sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))), None)
IMAGES = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: g++ is not installed"),
    pytest.mark.skipif(
        not INCLUDE, reason=f"no {HEADER} in ONNXRUNTIME_INCLUDE or {PLACES[0]} (Debian 13: libonnxruntime-dev)"
    ),
    pytest.mark.skipif(LIBRARY is None, reason="the package onnxruntime has no libonnxruntime.so here"),
]


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built with the library of the Python package."""
    folder = tmp_path_factory.mktemp("cpp")
    assert LIBRARY is not None
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(LIBRARY)
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(folder / "classify")]
    built = subprocess.run(
        [*command, f"-isystem{INCLUDE}", f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder / "classify"


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return np.rint(digits.images * 255 / 16).astype(np.uint8)[:500], digits.target[:500]


@pytest.fixture(scope="module", params=["fitted_q", "ztw"])
def bundle(request: pytest.FixtureRequest, pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights and learned heads; one of the policies leaves numbers from gate to gate."""
    import torch

    torch.manual_seed(0)
    backbone = quee.create_backbone("vit_digits", (1, 2, 4), embed_dim=16, depth=4, num_heads=2)
    out = tmp_path_factory.mktemp("fit") / "bundle"
    quee.fit(backbone, *pixels, out, precisions=["w4a4", "w8a8"], policy=request.param)
    return out


def run(classify: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([classify, *map(str, arguments)], capture_output=True, text=True, check=False)


def assert_same(classifier: AdaptiveClassifier, images: np.ndarray, said: str, budget: float | None) -> None:
    routed = classifier.route(images, budget=budget)
    rows = [line.split("\t") for line in said.splitlines()]
    assert [int(row[0]) for row in rows] == list(range(len(images)))
    assert [row[1] for row in rows] == [classifier.classes[label] for label in routed.label]
    assert [row[2] for row in rows] == routed.path
    assert np.allclose([float(row[3]) for row in rows], routed.cost, rtol=1e-8)


def test_labels_paths_and_costs_are_those_of_quee(classify: Path, bundle: Path, pixels, tmp_path: Path) -> None:
    classifier, images = load_bundle(bundle, "onnxruntime", threads=1), pixels[0][:IMAGES]
    images.tofile(tmp_path / "images.raw")
    costs = np.array([point.cost for point in classifier.points])
    between = (costs[1:] + costs[:-1]) / 2
    shared = [budget for budget in between if 0 < classifier.operating(Options(budget=budget)).share < 1]
    assert shared or classifier.description["policy"] == "ztw"  # images draw between two points; its are too alike here
    budgets = [None, costs[0] / 2, costs[0], costs[-1], *shared[:: max(1, len(shared) // 3)]]
    for budget in budgets:
        ran = run(classify, bundle, tmp_path / "images.raw", *([] if budget is None else [budget]))
        assert ran.returncode == 0, ran.stderr
        assert_same(classifier, images, ran.stdout, budget)


def test_faults_are_told(classify: Path, bundle: Path, tmp_path: Path) -> None:
    assert run(classify).returncode == 2
    (tmp_path / "images.raw").write_bytes(bytes(65))
    ran = run(classify, bundle, tmp_path / "images.raw")
    assert (ran.returncode, ran.stderr.endswith("65 bytes are no images of 64\n")) == (4, True)
    older = Path(shutil.copytree(bundle, tmp_path / "older"))
    (older / "bundle.json").write_bytes(json_bytes({**read_json(older / "bundle.json"), "format": 6}))
    ran = run(classify, older, tmp_path / "images.raw")
    assert (ran.returncode, ran.stderr) == (1, "this reads bundles of format 7\n")
    ran = run(classify, tmp_path / "none", tmp_path / "images.raw")
    assert (ran.returncode, ran.stderr) == (1, f"cannot read {tmp_path / 'none' / 'bundle.json'}\n")
