import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import encoded, noise
from sklearn.datasets import load_digits

from quee.data.importers import import_dataset
from quee.data.preprocessing import Preprocessing
from quee.data.source import open_dataset
from quee.data.writer import Sample, write_images
from quee.errors import IntegrityError, QueeError
from quee.settings.backbone import Augmentation

TRANSFORM = Preprocessing((8, 8), mean=(0.3,), std=(0.4,))
MOVED = Augmentation(flip=True, crop_padding=2, erase=0.5)
TURNED = Augmentation(flip=True, crop_padding=1, rotate=15.0, scale=0.1)


@pytest.fixture
def digits(project):
    import_dataset("digits", None, Path("data/digits"))
    return open_dataset(Path("data/digits"), "digits")


@pytest.fixture
def photos(project):
    """Images of several sizes, as in large data sets."""
    folder = Path("data/photos")
    folder.mkdir(parents=True)
    for split, start, count in (("train", 0, 30), ("test", 30, 10)):
        samples = [Sample(encoded(noise(i, 100 + i, 120, 3)), f"{i}.jpg", i % 3) for i in range(start, start + count)]
        write_images(folder / f"{split}-00000-of-00001.parquet", samples, ("a", "b", "c"))
    return open_dataset(folder, "photos")


def gathered(batches):
    parts = list(batches)
    ids = np.concatenate([part[0] for part in parts])
    order = np.argsort(ids)
    return ids, ids[order], torch.cat([part[1] for part in parts])[order], torch.cat([part[2] for part in parts])[order]


def test_digits_invert_to_the_original_values(digits):
    pixels = digits.decode(np.arange(len(digits)))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1797, 8, 8, 1)
    assert np.array_equal(np.rint(pixels[..., 0].astype(float) * 16 / 255), load_digits().images)
    assert np.array_equal(digits.labels, load_digits().target)
    assert digits.labels.dtype == np.int64


def test_two_imports_have_the_same_bytes(digits):
    import_dataset("digits", None, Path("data/again"))
    assert open_dataset(Path("data/again"), "digits").digests == digits.digests


def test_the_embedded_digits_are_what_the_importer_makes(digits):
    embedded = Path(__file__).parents[3] / "data" / "digits"
    if not embedded.is_dir():
        pytest.skip("data/digits is not pulled")
    assert open_dataset(embedded, "digits").digests == digits.digests


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_an_image_does_not_depend_on_its_batch(name, request):
    images = request.getfixturevalue(name)
    transform = Preprocessing((16, 16), 0.9, "bicubic", (0.5,) * 3, (0.2,) * 3, 3)
    batch = images.batch(np.arange(20), transform)
    assert batch.shape == (20, 3, 16, 16)
    assert batch.dtype == torch.float32
    for index in (0, 7, 19):
        assert torch.equal(batch[index : index + 1], images.batch(np.array([index]), transform))


@pytest.mark.parametrize("augmentation", [None, MOVED, TURNED])
@pytest.mark.parametrize("name", ["digits", "photos"])
def test_batches_depend_on_seed_and_sample_alone(name, augmentation, request):
    images = request.getfixturevalue(name)
    transform = TRANSFORM if name == "digits" else Preprocessing((32, 32), channels=3)
    ids = np.arange(len(images))[::-1]
    order, sorted_ids, x, y = gathered(images.batches(ids, transform, 7, (0, 1), augmentation, workers=1))
    again, _, other_x, _ = gathered(images.batches(ids, transform, 7, (0, 1), augmentation, workers=3))
    assert np.array_equal(order, again)
    assert torch.equal(x, other_x)
    assert np.array_equal(sorted_ids, np.arange(len(images)))
    assert np.array_equal(y.numpy(), images.labels)
    _, _, regrouped, _ = gathered(images.batches(ids, transform, 32, (0, 1), augmentation))
    assert torch.equal(x, regrouped)
    other_order, _, other_epoch, _ = gathered(images.batches(ids, transform, 7, (0, 2), augmentation))
    assert not np.array_equal(order, other_order)
    assert (augmentation is None) == torch.equal(x, other_epoch)


def test_without_a_seed_the_order_is_kept_and_values_are_those_of_batch(digits):
    ids = np.array([5, 3, 1700, 4])
    parts = list(digits.batches(ids, TRANSFORM, 3))
    assert [part[0].tolist() for part in parts] == [[5, 3, 1700], [4]]
    assert torch.equal(torch.cat([part[1] for part in parts]), digits.batch(ids, TRANSFORM))


def test_a_streamed_shuffle_reaches_across_row_groups(photos):
    ids = photos.encoded.shuffled(np.arange(40), np.random.default_rng(0), window=1 << 30)
    assert sorted(ids) == list(range(40))
    assert max(ids[:20]) >= 30


def test_pixels_are_cached_and_a_damaged_cache_is_made_anew(digits):
    expected = np.array(digits.decode(np.arange(10)))
    (cache,) = Path(".quee/images").glob("*.npy")
    cache.write_bytes(cache.read_bytes()[:1000])
    again = open_dataset(Path("data/digits"), "digits")
    assert np.array_equal(again.decode(np.arange(10)), expected)
    assert cache.stat().st_size > 100_000


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "left over"])
def test_a_damaged_file_is_named(photos, damage):
    path, digests = photos.files[0], photos.digests
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "altered":
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    else:
        path = path.with_name("train-00001-of-00002.parquet")
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match=path.name):
        open_dataset(photos.folder, "photos", digests)


def test_a_truncated_file_is_named_without_digests_too(photos):
    photos.files[1].write_bytes(photos.files[1].read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=photos.files[1].name):
        open_dataset(photos.folder, "photos")


def test_a_bad_image_is_named_with_its_id(project):
    folder = Path("data/broken")
    folder.mkdir(parents=True)
    good = encoded(noise(0, 200, 200, 3))
    write_images(folder / "train-0.parquet", [Sample(good, "a.jpg", 0), Sample(good[:-900], "b.jpg", 1)], ("x", "y"))
    images = open_dataset(folder, "broken")
    with pytest.raises(QueeError, match=r"data/broken: sample 1 \(b.jpg\): does not decode"):
        images.decode(np.array([0, 1]))


def test_a_label_out_of_range_is_refused(project):
    folder = Path("data/digits")
    folder.mkdir(parents=True)
    write_images(folder / "train-0.parquet", [Sample(encoded(noise(0, 8, 8), "PNG"), "a.png", 10)], ())
    with pytest.raises(QueeError, match="label 10 of sample 0 is out of range; valid: 0 to 9"):
        open_dataset(folder, "digits")


def test_names_are_checked_without_heavy_imports():
    code = "import sys, quee.data; print([m for m in ('torch', 'pyarrow', 'PIL', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_augmentation_of_its_own_leaves_the_order(digits) -> None:
    ids = np.arange(40)
    first, second = (
        next(digits.batches(ids, TRANSFORM, 40, (0, 0), MOVED, augmentation_seed=(0, number))) for number in (0, 1)
    )
    assert first[0].tolist() == second[0].tolist() != ids.tolist()
    assert not torch.equal(first[1], second[1])
