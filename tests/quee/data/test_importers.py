import gzip
import pickle
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_files import write_garments, write_glyphs
from image_files import encoded, noise
from PIL import Image
from public_files import (
    WNIDS,
    cifar_members,
    cifar_rows,
    idx,
    photo,
    python2_pickle,
    write_imagenet,
    write_mnist,
    write_svhn,
    write_tar,
)

from quee.data import importers, names_in
from quee.data.identity import sample_keys
from quee.data.importers import Importer, Options, Plan, Source, import_dataset, located
from quee.data.importers.arrays import array_shard
from quee.data.importers.base import Answering
from quee.data.preprocessing import Preprocessing
from quee.data.source import open_dataset
from quee.errors import DamagedError, IntegrityError, QueeError, UsageError


def added(name, source, **options):
    target = Path("data") / name
    import_dataset(name, source, target, Options(**options))
    assert not list(Path(".quee/partial/import").iterdir())
    return open_dataset(target, name)


def refused(name, source, reason, error=QueeError, **options):
    with pytest.raises(error, match=reason) as raised:
        import_dataset(name, source, Path("data") / name, Options(**options))
    assert raised.value.exit_status == error.exit_status
    assert "\n" not in str(raised.value)
    assert not Path("data").exists()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(project, name, packed):
    images = added(name, write_mnist(Path("files"), packed))
    assert (len(images), images.train_samples, len(images.classes)) == (60, 40, 10)
    assert np.array_equal(images.decode(np.arange(40))[..., 0], noise(0, 40, 28, 28))
    assert images.labels.tolist() == [i % 10 for i in range(40)] + [i % 10 for i in range(20)]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-5], "header claims 31,360 bytes, the file holds 31,355"),
        (lambda content: content + b"x", "the file holds more"),
        (lambda content: b"\0\0\x0d\x03" + content[4:], "magic number 00000d03; expected 00000803"),
        (lambda content: content[:9], "truncated in its header"),
        (lambda content: b"", "magic number missing"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "at most"),
        (lambda content: idx(noise(0, 40, 32, 32)), "images of 32×32 pixels; expected 28×28"),
        (lambda content: idx(noise(0, 39, 28, 28)), "39 images and 40 labels"),
    ],
)
def test_a_damaged_idx_file_is_refused(project, damage, reason):
    path = write_mnist(Path("files"), packed=False) / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    refused(
        "mnist", Path("files"), reason, QueeError if re.match("at most|images of|39 images", reason) else DamagedError
    )


def test_a_truncated_gz_file_and_a_label_out_of_range_are_refused(project):
    path = write_mnist(Path("files"), packed=True) / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-12])
    refused("mnist", Path("files"), "truncated or damaged", DamagedError)
    path.write_bytes(gzip.compress(idx(np.full(40, 11, np.uint8))))
    refused("mnist", Path("files"), "label 11 of image 0 is out of range; valid: 0 to 9")
    path.unlink()
    refused("mnist", Path("files"), "has no train-labels-idx1-ubyte", UsageError)


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_archives(project, name, kind, unpacked):
    members = cifar_members(name, kind)
    source = Path("archive")
    if unpacked:
        for member, content in members.items():
            (source / member).parent.mkdir(parents=True, exist_ok=True)
            (source / member).write_bytes(content)
    else:
        write_tar(source, members, "w:gz")
    images = added(name, source)
    classes = 10 if name == "cifar10" else 100
    batches = 5 if name == "cifar10" else 1
    assert (len(images), images.train_samples, len(images.classes)) == (20 * batches + 20, 20 * batches, classes)
    rows, labels = cifar_rows(0, 20, classes)
    assert np.array_equal(images.decode(np.arange(20)), rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert images.labels[:20].tolist() == labels
    assert images.classes[1] == ("automobile" if name == "cifar10" else "fine_01")


def test_both_cifar_archives_give_the_same_samples_and_the_python_one_their_original_names(project):
    found = {}
    for kind in ("python", "binary"):
        archive = write_tar(Path("archive"), cifar_members("cifar10", kind), "w:gz")
        import_dataset("cifar10", archive, Path("data") / kind)
        found[kind] = open_dataset(Path("data") / kind, "cifar10")
    python, binary = found["python"], found["binary"]
    assert np.array_equal(sample_keys(python), sample_keys(binary))
    assert np.array_equal(python.labels, binary.labels)
    assert python.paths[[0, 21, 119]].tolist() == ["0_0.png", "1_1.png", "5_19.png"]
    assert binary.paths[[0, 21, 119]].tolist() == ["train/000000.png", "train/000021.png", "test/000019.png"]


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_a_pickle_with_another_type_is_refused_and_not_executed(project):
    members = cifar_members("cifar10", "python")
    members["cifar-10-batches-py/data_batch_1"] = pickle.dumps({b"data": Harmful()}, protocol=2)
    refused("cifar10", write_tar(Path("archive"), members, "w:gz"), "which is not in the format", DamagedError)
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not read"),
        (pickle.dumps([1, 2], protocol=2), "holds a list"),
        (pickle.dumps({"data": np.zeros((2, 3072))}, protocol=2), "data_batch_2: not read"),
        (python2_pickle({b"data": noise(0, 2, 3071), b"labels": [1, 2]}), r"shape \(2, 3071\)"),
        (python2_pickle({b"data": noise(0, 3, 3072), b"labels": [1, 2]}), "3 images and 2 labels"),
        (python2_pickle({b"data": noise(0, 2, 3072), b"labels": [1, 10]}), "label 10 of image 21 is out of range"),
        (python2_pickle({b"data": noise(0, 2, 3072)}), "no list under 'labels'"),
    ],
)
def test_a_bad_cifar_batch_is_refused(project, content, reason):
    members = cifar_members("cifar10", "python")
    members["cifar-10-batches-py/data_batch_2"] = content
    error = DamagedError if "not read" in reason or "holds" in reason else QueeError
    refused("cifar10", write_tar(Path("archive"), members, "w:gz"), reason, error)


def test_bad_cifar_archives_are_refused(project):
    members = cifar_members("cifar10", "binary")
    path = write_tar(Path("archive"), members, "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("cifar10", path, "not a whole tar archive", DamagedError)
    path.write_bytes(b"no archive")
    refused("cifar10", path, "not a whole tar archive", DamagedError)
    refused("cifar100", write_tar(path, members, "w:gz"), "has no meta; is it an archive of cifar100")
    members["cifar-10-batches-bin/test_batch.bin"] += b"x"
    refused("cifar10", write_tar(path, members, "w:gz"), "not whole records of 3073; truncated", DamagedError)
    members["elsewhere/test_batch.bin"] = b""
    refused("cifar10", write_tar(path, members, "w:gz"), "is in it twice")


@pytest.mark.parametrize("extra", [False, True])
def test_svhn(project, extra):
    images = added("svhn", write_svhn(Path("files"), train=30, test=20, extra=10), extra=extra)
    assert (len(images), images.train_samples) == (60, 40) if extra else (50, 30)
    assert images.labels[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert np.array_equal(images.decode(np.arange(30)), noise(0, 32, 32, 3, 30).transpose(3, 0, 1, 2))


def lines(name, source, **options):
    return import_dataset(name, Path(source), Path("data") / name, Options(**options), replace=True).lines()


def test_what_public_files_have_beside_is_left_out_and_named(project):
    write_svhn(Path("files"), train=30, test=20, extra=10)
    (Path("files") / "notes.txt").write_text("")
    assert lines("svhn", "files")[0] == "left out: extra_32x32.mat (--extra adds it to the training set), notes.txt"
    assert lines("svhn", "files", extra=True)[0] == "left out: notes.txt"
    members = cifar_members("cifar10", "python") | {"cifar-10-batches-py/readme.html": b"x", "__MACOSX/._readme": b""}
    archive = write_tar(Path("archive"), members, "w:gz")
    assert lines("cifar10", archive)[0] == "left out: 1 .html, 1 hidden file"
    write_mnist(Path("mnist"), packed=True)
    (Path("mnist") / "more").mkdir()
    (Path("mnist") / "more" / "train-labels-idx1-ubyte").write_bytes(b"")
    assert lines("mnist", "mnist")[0] == "left out: folder more/ (1 file)"


def test_copies_among_arrays_are_counted(project):
    members = cifar_members("cifar10", "binary")
    batch = members["cifar-10-batches-bin/data_batch_1.bin"]
    members["cifar-10-batches-bin/test_batch.bin"] = batch[: 2 * 3073]
    (said,) = [line for line in lines("cifar10", write_tar(Path("archive"), members)) if "duplicates" in line]
    assert said.startswith(
        "duplicates, byte for byte: 2 evaluation images that are in the training set too: archive, test"
    )


def test_hidden_members_and_others_of_imagenets_archives_are_no_images(project):
    source = write_imagenet(Path("files"))
    inner = {}
    for label, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{i}.JPEG": photo(1000 * label + i) for i in range(3)}
        images |= {f"._{wnid}_0.JPEG": b"x", "notes.txt": b"x", f"{wnid}_caf\udce9.JPEG": photo(1000 * label + 9)}
        inner[f"{wnid}.tar"] = write_tar(Path("inner.tar"), images).read_bytes()
    write_tar(source / "ILSVRC2012_img_train.tar", inner | {"._n01440764.tar": b"x"})
    (source / "ILSVRC2012_img_test.tar").write_bytes(b"")
    said = lines("imagenet", source)
    assert said[0] == "left out: 3 .txt, ILSVRC2012_img_test.tar, 4 hidden files"
    assert "evaluation set: ILSVRC2012_img_val.tar" in said
    images = open_dataset(Path("data/imagenet"), "imagenet")
    assert images.train_samples == 12
    assert sum("caf\\xe9" in images.encoded[i][1] for i in range(12)) == 3


def test_a_bad_member_of_an_archive_is_named_with_the_archive(project):
    source = write_imagenet(Path("files"))
    images = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": photo(9000 + i)[: None if i else 99] for i in range(9)}
    write_tar(source / "ILSVRC2012_img_val.tar", images)
    refused(
        "imagenet",
        source,
        "files/ILSVRC2012_img_val.tar: ILSVRC2012_val_00000001.JPEG: (not a readable|does not decode)",
        DamagedError,
    )
    assert "skipped 1 image that cannot be used:" in lines("imagenet", source, skip_bad=True)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("svhn", {"evaluation": "test"}, "--evaluation does not apply to svhn; options that do: --extra"),
        ("cifar10", {"extra": True}, "--extra does not apply to cifar10; options that do: none"),
        ("imagenet", {"config": "x"}, "--config does not apply to class folders"),
        ("birds", {"ground_truth": Path("x")}, "--ground-truth does not apply to class folders"),
    ],
)
def test_options_that_say_nothing_to_an_importer_are_refused(project, name, options, reason):
    Path("files").mkdir()
    refused(name, Path("files"), reason, UsageError, **options)


def test_bad_svhn_files_are_refused(project):
    from scipy.io import savemat

    path = write_svhn(Path("files"), train=30, test=20) / "train_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("svhn", Path("files"), "not a whole MATLAB file", DamagedError)
    for content, reason in (
        ({"X": noise(0, 32, 32, 3, 4), "y": np.array([[1], [2], [3]])}, "4 images and 3 labels"),
        ({"X": noise(0, 32, 32, 3, 1), "y": np.array([[11]])}, "label 11 of image 0 is out of range; valid: 1 to 10"),
        ({"X": noise(0, 28, 28, 3, 1), "y": np.array([[1]])}, "X is uint8 of shape"),
        ({"X": noise(0, 32, 32, 3, 1)}, "has no variable y"),
    ):
        savemat(path, content)
        refused("svhn", Path("files"), reason)
    refused("svhn", Path("files"), "has no extra_32x32.mat|has no variable", extra=True)


def test_imagenet_from_the_official_archives(project):
    images = added("imagenet", write_imagenet(Path("files")))
    assert (len(images), images.train_samples, images.classes) == (33, 24, WNIDS)
    by_path = {images.encoded[i][1]: i for i in range(33)}
    for label, wnid in enumerate(WNIDS):
        sample = by_path[f"{wnid}/{wnid}_5.JPEG"]
        assert images.encoded[sample][0] == photo(1000 * label + 5)
        assert images.labels[sample] == label
    for i in range(9):
        sample = by_path[f"ILSVRC2012_val_{i + 1:08d}.JPEG"]
        assert sample >= 24
        assert images.labels[sample] == i % 3
        assert images.encoded[sample][0] == photo(9000 + i)
    assert not (np.diff(images.labels[:24]) >= 0).all()


@pytest.mark.parametrize("line", ["{wnid}", "ILSVRC2012_val_{number:08d}.JPEG {wnid}"])
def test_imagenet_with_a_given_ground_truth(project, line):
    source = write_imagenet(Path("files"))
    (source / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    refused("imagenet", source, "nor was --ground-truth given", UsageError)
    truth = Path("truth.txt")
    truth.write_text("\n".join(line.format(wnid=WNIDS[i % 3], number=i + 1) for i in range(9)))
    images = added("imagenet", source, ground_truth=truth)
    labels = {images.encoded[i][1]: images.labels[i] for i in range(24, 33)}
    assert [labels[name] for name in sorted(labels)] == [i % 3 for i in range(9)]


def test_imagenet_from_class_folders(project):
    for split, count in (("train", 6), ("val", 3)):
        for label, wnid in enumerate(WNIDS):
            folder = Path("files") / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{wnid}_{i}.JPEG").write_bytes(photo(100 * label + i))
    images = added("imagenet", Path("files"))
    assert (len(images), images.train_samples, images.classes) == (27, 18, WNIDS)


def test_bad_imagenet_archives_are_refused(project):
    source = write_imagenet(Path("files"))
    train = source / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    train.write_bytes(whole[: len(whole) // 2])
    refused("imagenet", source, "truncated in|not a whole tar archive", DamagedError)
    train.write_bytes(whole)
    truth = Path("truth.txt")
    for text, reason in (
        ("1\n2\n", "9 images, the ground truth 2 labels"),
        ("7\n" * 9, "class number 7, which is not in meta.mat"),
        ("n999\n" * 9, "names n999, which is no class"),
        ("ILSVRC2012_val_00000002.JPEG n01440764\n", "no line for ILSVRC2012_val_00000001.JPEG"),
    ):
        truth.write_text(text)
        refused("imagenet", source, reason, ground_truth=truth)
    twice = photo(1)
    inner = write_tar(Path("inner.tar"), {"a/x.JPEG": twice, "b/x.JPEG": twice}).read_bytes()
    write_tar(train, {"n01440764.tar": inner, "n01443537.tar": inner})
    refused("imagenet", source, "n01440764/x.JPEG is there twice|no class of the training set")


@pytest.fixture
def folders(project):
    for index in range(12):
        folder = Path("files") / "train" / "abc"[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.jpg").write_bytes(photo(index))
    return Path("files")


def test_class_folders_under_a_new_name(folders):
    images = added("my_birds", folders)
    assert (len(images), images.classes) == (12, ("a", "b", "c"))
    assert "my_birds" in names_in(Path("data"))
    for sample in range(12):
        assert images.encoded[sample][1].startswith(images.classes[images.labels[sample]])


@pytest.mark.parametrize("content", [b"", photo(1)[:-800], encoded(noise(0, 9, 9, 3), "GIF")])
def test_an_image_that_does_not_decode_is_named_and_nothing_added(folders, content):
    (folders / "train" / "b" / "bad.png").write_bytes(content)
    refused("my_birds", folders, "files/train/b/bad.png: .*; --skip-bad goes on", DamagedError)
    (folders / "train" / "b" / "bad.png").unlink()
    assert len(added("my_birds", folders)) == 12


def test_images_of_other_sizes_and_modes_are_taken_and_converted(folders):
    pixels = Image.fromarray(np.kron(noise(5, 6, 9, 3), np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257)
    for name, image, options in (
        ("grey.jpg", pixels.convert("L"), {}),
        ("cmyk.jpg", pixels.convert("CMYK"), {}),
        ("palette.png", pixels.convert("P"), {}),
        ("alpha.png", pixels.convert("RGBA"), {}),
        ("sixteen.png", sixteen, {}),
        ("rotated.jpg", pixels, {"exif": exif}),
        ("lossless.webp", pixels, {"lossless": True}),
    ):
        image.save(folders / "train" / "a" / name, **options)
    images = added("my_birds", folders)
    assert len(images) == 19
    shapes = {Path(images.encoded[i][1]).name: images.decode(np.array([i]))[0].shape for i in range(19)}
    assert shapes.pop("rotated.jpg") == (72, 48, 3)
    ours = ("grey.jpg", "cmyk.jpg", "palette.png", "alpha.png", "sixteen.png", "lossless.webp")
    assert {shapes[name] for name in ours} == {(48, 72, 3)}
    batch = images.batch(np.arange(19), Preprocessing((24, 24), 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3, 3))
    assert batch.shape == (19, 3, 24, 24)
    assert batch.isfinite().all()


def test_an_image_above_the_pixel_limit_is_named_and_nothing_added(folders):
    Image.new("1", (8_000, 8_000)).save(folders / "train" / "c" / "huge.png")
    refused(
        "my_birds", folders, "files/train/c/huge.png: 8000×8000 pixels; at most 50,000,000 are decoded", DamagedError
    )


def test_an_import_goes_on_where_it_was_killed(folders, monkeypatch):
    monkeypatch.setattr(located, "SHARD_BYTES", 10_000)
    plan = importers.plan_import("my_birds", folders, Options())
    assert len(plan.shards) > 3
    work = importers.PARTIAL / f"my_birds-{importers._key(folders, Options(), plan)}"
    work.mkdir(parents=True)
    for shard in plan.shards[:2]:
        shard.write(work / shard.name)
    before = [(work / shard.name).stat().st_mtime_ns for shard in plan.shards[:2]]
    images = added("my_birds", folders)
    assert [path.stat().st_mtime_ns for path in images.files[:2]] == before
    import_dataset("other", folders, Path("data/other"))
    assert open_dataset(Path("data/other"), "other").digests == images.digests


def test_hub_parquet_is_taken_as_it_is(project):
    rows = [{"bytes": photo(i), "path": f"{i}.jpg"} for i in range(6)]
    table = pa.table({"img": rows, "fine_label": list(range(6)), "coarse_label": [0] * 6})
    source = Path("files/data")
    source.mkdir(parents=True)
    pq.write_table(table, source / "train-00000-of-00001-abc.parquet")
    pq.write_table(table.slice(0, 2), source / "validation-00000-of-00001.parquet")
    images = added("hub", Path("files"))
    assert (len(images), images.train_samples) == (8, 6)
    assert images.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert images.files[0].read_bytes() == (source / "train-00000-of-00001-abc.parquet").read_bytes()


def test_bad_hub_parquet_is_refused(project):
    source = Path("files/train.parquet")
    source.parent.mkdir()
    image = {"bytes": photo(1), "path": "a.jpg"}
    for table, reason in (
        (pa.table({"image": [image], "label": [-1]}), "split train: its images have no labels"),
        (pa.table({"image": [image] * 2, "label": [-1, 0]}), r"train.parquet, row 0 \(a.jpg\): no label"),
        (pa.table({"image": ["a.jpg"], "label": [0]}), "expected struct<bytes: binary, path: string>"),
        (pa.table({"image": [image], "label": [0.5]}), "column 'label' is double; expected integers or text"),
        (pa.table({"picture": [image], "label": [0]}), "has no column 'image'"),
        (pa.table({"image": [image] * 2, "label": [0, 1], "id": [5, 5]}), "column 'id' is there twice"),
        (pa.table({"image": [{"bytes": b"x", "path": "a.jpg"}], "label": [0]}), r"row 0 \(a.jpg\): not a readable"),
    ):
        pq.write_table(table, source)
        refused("hub", Path("files"), reason, DamagedError if "not a readable" in reason else QueeError)
    source.write_bytes(source.read_bytes()[:-9])
    refused("hub", Path("files"), "not a readable Parquet file", IntegrityError)


def test_names_and_sources_are_checked_first(project):
    refused("../x", Path(), "dataset name '../x'", UsageError)
    refused("weights", Path(), "dataset name 'weights'", UsageError)
    refused("cifar10", None, "needs a source", UsageError)
    refused("cifar10", Path("nowhere"), "does not exist", UsageError)
    refused("digits", Path("x"), "the digits come with scikit-learn; leave out x", UsageError)
    import_dataset("digits", None, Path("data/digits"))
    with pytest.raises(UsageError, match="is there already"):
        import_dataset("digits", None, Path("data/digits"))


def test_an_option_of_another_format_is_refused(project):
    refused("digits", None, "--extra does not apply to digits; options that do: none", UsageError, extra=True)
    write_svhn(Path("files"), train=30, test=20)
    reason = "--evaluation does not apply to svhn; options that do: --extra"
    refused("svhn", Path("files"), reason, UsageError, evaluation="test")


EXAMPLES = {
    "digits": lambda: ("digits", None),
    "cluttered_fashion": lambda: ("cluttered_fashion", write_garments(Path("files"))),
    "street_characters": lambda: ("street_characters", write_glyphs(Path("glyphs.npz"))),
    "hub": lambda: ("birds", hub_file(Path("files/train.parquet"))),
    "idx": lambda: ("mnist", write_mnist(Path("files"), packed=False)),
    "cifar": lambda: ("cifar10", write_tar(Path("archive"), cifar_members("cifar10", "python"), "w:gz")),
    "svhn": lambda: ("svhn", write_svhn(Path("files"), train=30, test=20)),
    "imagenet": lambda: ("imagenet", write_imagenet(Path("files"))),
    "folders": lambda: ("birds", class_folders(Path("files"))),
    "unlabelled": lambda: ("birds", class_folders(Path("files")), ANSWERING),
    "toy": lambda: ("greys", toy_file(Path("files.toy"))),
}
"""By format, what writes a source small and the name of the data set in it, and the network if it has no labels."""


def told_by_size(images, count):
    """Answers of a network that tells files of an even from those of an odd number of bytes; the first two differ."""
    sizes = np.array([len(image) % 2 for image in images])
    assert len(sizes) == count
    return np.where(np.arange(count) < 2, np.arange(count), sizes)


ANSWERING = Answering("net", ("even", "odd"), {"weights": "net", "sha256": "0"}, told_by_size)


def hub_file(path):
    path.parent.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": photo(i), "path": f"{i}.jpg"} for i in range(4)],
                             "label": [0, 1, 0, 1]}), path)  # fmt: skip
    return path


def class_folders(folder):
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(2):
            (folder / label / f"{index}.png").write_bytes(encoded(noise(index, 12, 12, 3), "PNG"))
    return folder


def toy_file(path):
    path.write_bytes(bytes(range(8)))
    return path


def read_toy(source, _):
    pixels = np.frombuffer(source.path.read_bytes(), np.uint8)
    labels = (np.arange(len(pixels)) % 2).astype(np.int64)
    images = np.broadcast_to(pixels[:, None, None, None], (len(pixels), 4, 4, 1))
    return Plan([array_shard("train", images, labels, ("even", "odd"), str(source.path))])


TOY = Importer(lambda source: source.path.suffix == ".toy", read_toy, words="toys")


@pytest.mark.parametrize("importer", [*importers.IMPORTERS, TOY], ids=lambda one: one.plan.__module__.split(".")[-1])
def test_each_format_is_recognised_by_its_importer_alone_and_read(project, monkeypatch, importer):
    example = "toy" if importer is TOY else importer.plan.__module__.rpartition(".")[2]
    assert example in EXAMPLES, f"add a small source of format {example} to EXAMPLES"
    name, path, *network = EXAMPLES[example]()
    assert set(importer.options) <= {field.name for field in fields(Options)}
    monkeypatch.setattr(importers, "IMPORTERS", [*importers.IMPORTERS, TOY])
    source = Source(name, path, Options(), answering=network[0] if network else None)
    assert next(one for one in importers.IMPORTERS if one.recognise(source)) is importer
    import_dataset(name, path, Path("data") / name, answering=source.answering)
    images = open_dataset(Path("data") / name, name)
    assert (images.answers is None) == (source.answering is None)
    assert len(images) >= 4 and len(images.classes) >= 2
