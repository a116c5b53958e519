"""A bundle is loaded, run, explained, profiled, verified and served without PyTorch and all else that only training needs."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from imported import imported, without
from PIL import Image

from quee.runtime import AdaptiveClassifier

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "without_extras.py"


@pytest.fixture(scope="module")
def place(bundle: Path, images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle and a folder of 8 images, some in folders below."""
    folder = tmp_path_factory.mktemp("light")
    shutil.copytree(bundle, folder / "bundle")
    for number, pixels in enumerate(images[0][:8]):
        (folder / "photos" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "photos" / str(number % 2) / f"{number}.png")
    np.save(folder / "images.npy", images[0][:8])
    return folder


def light(place: Path, *arguments: str, python: str = sys.executable) -> tuple[int, str, str]:
    """Exit status, output and errors of a command in the folder."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    command = [python, str(SCRIPT), *arguments]
    ran = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def classified(classifier: AdaptiveClassifier, place: Path) -> list[tuple[str, str]]:
    """Label and path of each of the photos, by engine torch."""
    files = sorted((place / "photos").rglob("*.png"))
    routed = classifier.route([str(file) for file in files], budget=0.3)
    return list(zip([classifier.classes[label] for label in routed.label], routed.path, strict=True))


def test_files_and_folders_are_classified_as_by_pytorch(place: Path, classifier: AdaptiveClassifier) -> None:
    status, out, said = light(place, "predict", "bundle", "photos", "--budget", "0.3", "--json")
    assert status == 0, said
    rows = json.loads(out)["rows"]
    found = sorted((row["image"], row["class"], row["path"]) for row in rows)
    assert [row[1:] for row in found] == classified(classifier, place)
    status, out, said = light(place, "predict", "bundle", "images.npy", "--budget", "0.3", "--csv")
    assert status == 0 and len(out.splitlines()) == 9, said


def test_a_bundle_is_verified_profiled_and_explained(place: Path) -> None:
    status, out, said = light(place, "verify", "bundle", "--execute", "--json")
    assert status == 0, said
    engines = json.loads(out)["engines"]
    assert "torch" not in engines and engines["onnxruntime"]["agrees"]
    status, _, said = light(place, "profile", "bundle", "--engine", "onnxruntime", "--batch", "1,8", "--repeats", "1")
    assert status == 0 and (place / "bundle.profile.json").is_file(), said
    status, out, said = light(place, "explain", "bundle")
    assert status == 0, said
    *explained, fit, quantize = out.splitlines()
    assert len(explained) == 3 and all("w8a8=1.0 fp32=16.0" in line for line in explained)
    assert fit == "QueeError quee.fit needs the package torch: pip install 'quee[train]'"
    assert quantize.startswith("QueeError quee.quantize_ needs the package ")


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("verify", "bundle"), ("PIL", "numpy", "safetensors")),
        (
            ("predict", "bundle", "images.npy", "--engine", "onnxruntime"),
            ("PIL", "numpy", "onnx", "onnxruntime", "safetensors"),
        ),
    ],
    ids=lambda value: value[0],
)
def test_a_verb_imports_no_more_than_its_answer_takes(
    place: Path, arguments: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    others = ("quee.export", "quee.policies.eero", "quee.policies.ztw", "quee.predictors", "quee.serving", "tasks")
    assert imported(arguments, place, (*without(*needed), *others)) == [], "policies of other bundles are not needed"


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (("predict", "bundle", "photos", "--engine", "torch"), "torch", "train"),
        (("predict", "bundle", "photos", "--out", "answers.parquet"), "pyarrow", "parquet"),
        (("predict", "bundle", "answers.parquet"), "pyarrow", "parquet"),
        (("cost", "vit_digits"), "", "train"),
        (("init", "project"), "", "pipeline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_not_installed_names_the_extra(
    place: Path, arguments: tuple[str, ...], missing: str, extra: str
) -> None:
    (place / "answers.parquet").write_bytes(b"PAR1")
    status, out, said = light(place, *arguments)
    assert (status, out) == (1, "")
    assert len(said.splitlines()) == 1
    assert f"the package {missing}" in said and f"pip install 'quee[{extra}]'" in said


@pytest.fixture
def served(place: Path) -> Iterator[str]:
    """The address of `quee serve`."""
    pytest.importorskip("uvicorn")
    command = [sys.executable, str(SCRIPT), "serve", "bundle", "--port", "0", "--examples", "photos/0"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        try:
            assert " on http://" in line, line + server.stderr.read()
            yield line.rpartition(" on ")[2].strip()
        finally:
            server.terminate()
            server.wait(30)


def test_a_bundle_is_served(place: Path, served: str) -> None:
    with urllib.request.urlopen(f"{served}v1/model", timeout=30) as answer:
        assert json.load(answer)["static"]["fp32"] == 16
    pixels = np.load(place / "images.npy")[0].ravel().tolist()
    body = {"inputs": [{"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": pixels}]}
    request = urllib.request.Request(f"{served}v2/models/quee-fit/infer", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fresh_environment_runs_the_deployment(place: Path, classifier: AdaptiveClassifier, tmp_path: Path) -> None:
    """`pip install quee[onnxruntime]` is enough; PyTorch is not there at all."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    install = ["uv", "pip", "install", "-q", "--python", str(python), f"{ROOT}[onnxruntime]"]
    ran = subprocess.run(install, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"packages cannot be installed here: {ran.stderr.splitlines()[-1][:200]}")
    absent = (
        "import importlib.util as u; print([n for n in ('torch', 'pyarrow', 'scipy', 'fastapi') if u.find_spec(n)])"
    )
    assert subprocess.run([python, "-c", absent], capture_output=True, text=True, check=True).stdout == "[]\n"
    quee = python.with_name("quee")
    ran = subprocess.run(
        [quee, "verify", "bundle", "--execute"], cwd=place, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and "engine onnxruntime: agrees" in ran.stdout, ran.stderr
    command = [quee, "predict", "bundle", "photos", "--budget", "0.3", "--json"]
    ran = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    found = sorted((row["image"], row["class"], row["path"]) for row in json.loads(ran.stdout)["rows"])
    assert [row[1:] for row in found] == classified(classifier, place)
    ran = subprocess.run([quee, "serve", "bundle"], cwd=place, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "pip install 'quee[serve]'" in ran.stderr
