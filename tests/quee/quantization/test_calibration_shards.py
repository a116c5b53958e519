"""Calibration, sensitivity and accuracy in shards equal those of one process for any workers, and are computed once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from quee.data.source import open_dataset
from quee.errors import IntegrityError
from quee.network.architectures import create_backbone
from quee.network.files import load_backbone, load_precisions, save_backbone, save_quantized
from quee.network.predictions import Networks, predict
from quee.precision import Precision
from quee.quantization.calibration import quantize_, quantize_paths
from quee.quantization.calibration_shards import calibrate, measure_sensitivity
from quee.quantization.mixed import sensitivity
from quee.settings.quantize import QuantizationConfig
from quee.work.progress import part_of_a_shard, progress
from quee.work.store import Store
from quee.work.workers import Dask, Inline, Lanes, Processes, Workers

CALIBRATION, SAMPLES = np.arange(96), np.arange(200, 500)
TREE = [QuantizationConfig(p) for p in ("w3a3", "w4a4")]
OTHERS = [QuantizationConfig(p) for p in ("w6a6", "w8a8")]
PRECISIONS = [Precision(p) for p in ("w3a3", "w4a4", "w6a6", "w8a8")]
KWARGS = {"embed_dim": 32, "depth": 3}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, create_backbone("vit_digits", (1, 3), **KWARGS), KWARGS)
    return folder


def networks(data: Path, backbone: Path, quantized: Path | None = None) -> Networks:
    return Networks.at(data, "digits", dict(open_dataset(data, "digits").digests), backbone, quantized)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(data: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's result without shards."""
    model, images = load_backbone(backbone), open_dataset(data, "digits")
    batches = [x for _, x, _ in images.batches(CALIBRATION, model.input, 64)]
    models = dict(quantize_paths(model, TREE, batches, 7))
    models |= {config.precision: quantize_(deepcopy(model), config, batches) for config in OTHERS}  # type: ignore[misc]
    folder = tmp_path_factory.mktemp("expected")
    for precision, quantized in models.items():
        save_quantized(folder, precision, quantized)
    return folder


def run(data: Path, backbone: Path, work: Path, lanes: Lanes, others: list[QuantizationConfig] = OTHERS) -> Path:
    """Calibrate into a folder under `work`, which also holds the shards."""
    out, units = work / "out", work / "units"
    for folder in (out, units):
        folder.mkdir(parents=True, exist_ok=True)
    store = Store(str(work / "store"))
    calibrate(networks(data, backbone), TREE, others, CALIBRATION, 7, store, units, lanes, out)
    return out


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def killed_in_the_middle(
    work: Path, lanes: Lanes, data: Path, backbone: Path, victims: Callable[[], list[Any]]
) -> Path:
    """A calibration with a worker that is killed when there is a finished unit and no finished network."""
    build = ThreadPoolExecutor(1).submit(run, data, backbone, work, lanes)
    while not list((work / "units").rglob("w3a3.*")):
        assert not build.done(), build.exception()
        time.sleep(0.01)
    assert not list(work.glob("store/*/w3a3-*"))
    victims()[0].kill()
    return build.result(240)


def test_calibration_in_shards_gives_the_files_of_calibration_without(
    data: Path, backbone: Path, expected: Path, tmp_path: Path
) -> None:
    assert content(run(data, backbone, tmp_path, Inline())) == content(expected)


def test_a_finished_calibration_is_not_made_again(data: Path, backbone: Path, expected: Path, tmp_path: Path) -> None:
    run(data, backbone, tmp_path, Inline(), OTHERS[:1])
    before = times(tmp_path / "store")
    assert len(before) == 2
    assert content(run(data, backbone, tmp_path, Inline())) == content(expected)
    assert before.items() < times(tmp_path / "store").items()


@pytest.mark.slow
def test_a_killed_worker_leaves_the_same_networks(
    data: Path, backbone: Path, expected: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def workers() -> list[psutil.Process]:
        servers = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
        return [worker for server in servers for worker in server.children()]

    out = killed_in_the_middle(tmp_path, Processes(Workers(1)), data, backbone, workers)
    assert content(out) == content(expected)
    assert "quantizing: a worker died (BrokenProcessPool)" in capfd.readouterr().err


@pytest.mark.slow
def test_dask_workers_one_of_them_killed_leave_the_same_networks_and_figures(
    data: Path, backbone: Path, expected: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    from loopback import dask_cluster

    with dask_cluster(2, tmp_path / "dask") as cluster:
        lanes = Dask(Workers(address=cluster.address))
        out = killed_in_the_middle(tmp_path / "work", lanes, data, backbone, lambda: cluster.workers)
        assert content(out) == content(expected)
        cluster.add_worker()
        there, store = networks(data, backbone, out), Store(str(tmp_path / "store"))
        spread = predict(there, PRECISIONS, SAMPLES, store, 4, lanes, "precisions")
        rows = measure_sensitivity(there, PRECISIONS[:2], SAMPLES[:64], store, lanes)
    here, store = networks(data, backbone, expected), Store(str(tmp_path / "here"))
    assert rows == measure_sensitivity(here, PRECISIONS[:2], SAMPLES[:64], store, Inline())
    alone = predict(here, PRECISIONS, SAMPLES, store, 64, Inline(), "precisions")
    assert all(np.array_equal(spread[p], alone[p]) for p in PRECISIONS)


@pytest.mark.parametrize("shard_size", [1, 5, 64])
def test_predictions_are_those_of_the_networks_whatever_the_shards(
    data: Path, backbone: Path, expected: Path, tmp_path: Path, shard_size: int
) -> None:
    there, shown = networks(data, backbone, expected), [Precision("fp32"), *PRECISIONS]
    found = predict(there, shown, SAMPLES, Store(str(tmp_path)), shard_size, Inline(), "precisions")
    multi = load_precisions(backbone, expected, shown)
    x = open_dataset(data, "digits").batch(SAMPLES, load_backbone(backbone).input)
    for precision in shown:
        with torch.inference_mode():
            logits = multi.classify(precision, multi.run_path([precision] * 2, x))
        assert np.array_equal(found[precision], logits.argmax(dim=1).numpy())


def test_predictions_made_are_not_made_again_and_those_of_other_networks_are_none(
    data: Path, backbone: Path, expected: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    there = networks(data, backbone, expected)
    predict(there, PRECISIONS[:2], SAMPLES, store, 8, Inline(), "precisions")
    before = times(tmp_path / "store")
    predict(there, PRECISIONS, SAMPLES, store, 8, Inline(), "precisions")
    assert before.items() < times(tmp_path / "store").items()
    torch.manual_seed(1)
    save_backbone(tmp_path, create_backbone("vit_digits", (1, 3), **KWARGS), KWARGS)
    fp32 = [Precision("fp32")]
    first = predict(networks(data, backbone), fp32, SAMPLES, store, 8, Inline(), "backbone")
    second = predict(networks(data, tmp_path), fp32, SAMPLES, store, 8, Inline(), "backbone")
    assert not np.array_equal(first[fp32[0]], second[fp32[0]])


def test_sensitivity_in_shards_is_sensitivity(data: Path, backbone: Path, expected: Path, tmp_path: Path) -> None:
    there = networks(data, backbone, expected)
    found = measure_sensitivity(there, PRECISIONS[:2], SAMPLES[:64], Store(str(tmp_path)), Inline())
    images, model = open_dataset(data, "digits"), load_backbone(backbone)
    x = images.batch(SAMPLES[:64], model.input)
    labels = torch.from_numpy(images.labels[SAMPLES[:64]])
    multi = load_precisions(backbone, expected, PRECISIONS[:2])
    assert found == {p: sensitivity(model, multi.models[p], x, labels) for p in PRECISIONS[:2]}


def test_a_worker_that_sees_other_networks_refuses(data: Path, backbone: Path, expected: Path, tmp_path: Path) -> None:
    there = networks(data, backbone, expected)
    other = tuple((file, "0" * 64 if "w4a4" in file else digest) for file, digest in there.files)
    store = Store(str(tmp_path))
    for fault in (
        lambda: predict(replace(there, files=other), PRECISIONS, SAMPLES, store, 64, Inline(), "precisions"),
        lambda: measure_sensitivity(replace(there, files=other), PRECISIONS, SAMPLES, store, Inline()),
    ):
        with pytest.raises(IntegrityError, match="w4a4.safetensors is .*expected 0000"):
            fault()
    assert store.names() <= {f"predictions-{replace(there, files=other).digest}-64"}


def test_bars_of_a_shard_are_shown_beside_its_own_and_not_in_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quee.work.progress.PLAIN_SECONDS", 0.0)
    with part_of_a_shard(), progress("a worker's", 2) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""
    with progress("shards", 2) as shards:
        with part_of_a_shard(), progress("units", 3) as bar:
            bar.advance(4)
        shards.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "shards: 0/2 units 3/3"
    assert second.startswith("shards: 1/2, about ") and second.endswith(" s left")
