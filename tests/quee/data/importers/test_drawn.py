"""Data sets that are drawn: the same pixels on every CPU and in any number of workers, and checked before they are kept."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from drawn_files import TEST, TRAIN, write_garments, write_glyphs

from quee.data import DATASETS
from quee.data.importers import Options, cluttered_fashion, drawn, import_dataset, street_characters
from quee.data.importers.drawn import digest_of
from quee.data.source import open_dataset
from quee.errors import QueeError, UsageError
from quee.work.io import content_digest
from quee.work.workers import EXECUTORS, Lanes, Workers

ROOT = Path(__file__).parents[4]
MAKERS: dict[str, Callable[[], Path]] = {
    "cluttered_fashion": lambda: write_garments(Path("files")),
    "street_characters": lambda: write_glyphs(Path("glyphs.npz")),
}
MODULES = {"cluttered_fashion": cluttered_fashion, "street_characters": street_characters}
COUNT = 300
"""Images whose pixels are compared between CPUs."""
PINNED = {
    "cluttered_fashion": "6a848e34023e421ab078de0840351e58cc33d78f1fdf77c7aa400e8268a2650d",
    "street_characters": "0caf1d7364dea530c119fbe4ea66f80446844f1d58e7ca013444c721272db3e9",
}
"""Digests of the first images of the evaluation set, of small garments and of the glyphs in the remote."""


def glyphs_in_the_remote() -> Path:
    pointer = yaml.safe_load((ROOT / "data/sources/street_glyphs.npz.dvc").read_text())["outs"][0]["md5"]
    return ROOT / "remote/files/md5" / pointer[:2] / pointer[2:]


def source_of(name: str) -> Path:
    return glyphs_in_the_remote() if name == "street_characters" else write_garments(Path("files"))


def processes(seconds: float) -> Lanes:
    return EXECUTORS["processes"](Workers(2))


@pytest.mark.parametrize("name", MAKERS)
def test_an_import_has_pixels_labels_and_groups_that_the_number_of_workers_does_not_change(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = MAKERS[name]()
    monkeypatch.setattr(drawn, "PIECE", 8)
    target = Path("data") / name
    report = import_dataset(name, source, target)
    alone = open_dataset(target, name).digests
    import_dataset(name, source, target, Options(), True, processes)
    images = open_dataset(target, name)
    assert images.digests == alone
    assert (len(images), images.train_samples) == (TRAIN + TEST, TRAIN)
    assert images.decode(np.arange(2)).shape[1:] == (*DATASETS[name].size, DATASETS[name].channels)
    assert "synthetic: drawn from the source, pixels as published" in report.notes
    digest = next(key for key, one in MODULES[name].KNOWN.items() if one.train[0] == TRAIN)
    assert report.source == f"{source.name}, digest {digest}"  # the tests' folder is a temporary one
    assert f"source: {report.source}" in report.lines()
    train, test = (
        pq.read_table(target / f"{split}-00000-of-00001.parquet").column("group").to_numpy()
        for split in ("train", "test")
    )
    assert len(train) == TRAIN and not set(train) & set(test)
    assert not list(Path(".quee/partial/import").iterdir())


@pytest.mark.parametrize("name", MAKERS)
def test_other_pixels_than_the_published_are_not_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, module = MAKERS[name](), MODULES[name]
    digest, known = next((key, one) for key, one in module.KNOWN.items() if one.train[0] == TRAIN)
    monkeypatch.setitem(module.KNOWN, digest, replace(known, test=(TEST, "0" * 64)))
    with pytest.raises(
        QueeError, match=rf"{name}, test: pixels have digest [0-9a-f]{{12}}, those published have 0{{12}}"
    ):
        import_dataset(name, source, Path("data") / name)
    assert not Path("data").exists()


def test_another_source_is_refused_before_anything_is_drawn(project: Path) -> None:
    garments, glyphs = write_garments(Path("files")), write_glyphs(Path("glyphs.npz"))
    del cluttered_fashion.KNOWN[cluttered_fashion.digest(garments)], street_characters.KNOWN[content_digest(glyphs)]
    for name, source in (("cluttered_fashion", garments), ("street_characters", glyphs)):
        with pytest.raises(
            UsageError, match=rf"{source} is another file than {name} is drawn from: digest .*; expected "
        ):
            import_dataset(name, source, Path("data") / name)
    with pytest.raises(UsageError, match="files is a folder; street_characters is drawn from one file"):
        import_dataset("street_characters", garments, Path("data/street_characters"))
    assert not Path("data").exists() and not Path(".quee").exists()


@pytest.mark.parametrize("name", MODULES)
def test_pixels_are_those_of_every_other_cpu(project: Path, name: str) -> None:
    source = source_of(name)
    assert digest_of(zip(*MODULES[name].drawn(str(source), "test", 0, COUNT), strict=True)) == PINNED[name]
    assert on_a_plain_cpu(name, source) == PINNED[name]


def on_a_plain_cpu(name: str, source: Path) -> str:
    """The digest as a process computes it in which NumPy uses no more than its baseline of instructions."""
    core = np._core._multiarray_umath  # type: ignore[attr-defined]
    others = [feature for feature in core.__cpu_dispatch__ if core.__cpu_features__[feature]]
    program = (
        "import sys, numpy as np; from quee.data.importers import drawn, cluttered_fashion, street_characters\n"
        f"features = np._core._multiarray_umath.__cpu_features__; assert not any(features[f] for f in {others})\n"
        f"print(drawn.digest_of(zip(*{name}.drawn(sys.argv[1], 'test', 0, {COUNT}))))"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(others)}
    command = [sys.executable, "-c", program, str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", MODULES)
def test_an_image_does_not_depend_on_the_others(project: Path, name: str) -> None:
    draw = partial(MODULES[name].drawn, str(source_of(name)), "train")
    for whole, part in zip(draw(0, 12), draw(5, 7), strict=True):
        assert np.array_equal(whole[5:7], part)


def test_scraps_and_training_images_are_of_training_garments_alone(project: Path) -> None:
    from quee.data.synthetic.cluttered_fashion import WORDS, draw
    from quee.data.synthetic.draws import Draws

    bright, dark = np.full((5, 28, 28), 255, np.uint8), np.zeros((5, 28, 28), np.uint8)
    pixels, garment = draw(Draws("a", 0, 50, WORDS), np.concatenate([dark, bright]), 5, evaluation=False)
    assert pixels.max() < 140 and set(garment) == set(range(5))  # nothing but noise
    pixels, garment = draw(Draws("a", 0, 50, WORDS), np.concatenate([dark, bright]), 5, evaluation=True)
    assert (pixels.max(axis=(1, 2, 3)) > 90).all() and set(garment) == set(range(5, 10))


def test_families_of_the_published_glyphs_are_for_training_or_evaluation_and_classes_are_drawn_evenly() -> None:
    with np.load(glyphs_in_the_remote()) as table:
        families = set(table["root"].tolist())
    held_out = {family for family in families if street_characters.is_held_out(family)}
    assert (len(families), len(held_out)) == (292, 83)
    table = str(glyphs_in_the_remote())
    for split, own in (("train", families - held_out), ("test", held_out)):
        pixels, labels, groups = street_characters.drawn(table, split, 0, 2000)
        assert set(groups.tolist()) <= own and len(set(groups.tolist())) > 0.9 * len(own)
        counts = np.bincount(labels, minlength=47)
        assert len(counts) == 47 and counts.min() > 20 and counts.max() < 75
        assert 120 < pixels.mean() < 134 and 52 < pixels.std() < 61
