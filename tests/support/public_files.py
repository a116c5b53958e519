"""The public data sets' files, written small and in their exact formats."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from image_files import encoded, noise
from scipy.io import savemat


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, packed: bool, train: int = 40, test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("t10k", test, 1)):
        for kind, array in (
            ("images-idx3", noise(seed, count, 28, 28)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
    return folder


# Python 2 wrote the pickles of the CIFAR archives, with protocol 2: byte strings, and NumPy's old module names.
def _string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def _number(value: int) -> bytes:
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def _list(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def _array(array: np.ndarray) -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_number, array.shape)) + b"t"
    return made + b"(K\x01" + shape + dtype + b"\x89" + _string(array.tobytes()) + b"tb"


def python2_pickle(content: dict[bytes, object]) -> bytes:
    pairs = b""
    for key, value in content.items():
        if isinstance(value, np.ndarray):
            written = _array(value)
        elif isinstance(value, bytes):
            written = _string(value)
        elif isinstance(value, int):
            written = _number(value)
        else:
            written = _list([_string(item) if isinstance(item, bytes) else _number(item) for item in value])
        pairs += _string(key) + written
    return b"\x80\x02}(" + pairs + b"u."


CIFAR10_NAMES = b"airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100_NAMES = [b"fine_%02d" % number for number in range(100)]


def cifar_rows(seed: int, count: int, classes: int) -> tuple[np.ndarray, list[int]]:
    return noise(seed, count, 3072), [int(label) for label in (np.arange(count) * 7 + seed) % classes]


def cifar_members(name: str, kind: str, count: int = 20) -> dict[str, bytes]:
    classes = 10 if name == "cifar10" else 100
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
    folder = {
        ("cifar10", "python"): "cifar-10-batches-py",
        ("cifar10", "binary"): "cifar-10-batches-bin",
        ("cifar100", "python"): "cifar-100-python",
        ("cifar100", "binary"): "cifar-100-binary",
    }[name, kind]
    members = {}
    for seed, file in enumerate(files):
        rows, labels = cifar_rows(seed, count, classes)
        if kind == "python":
            key = b"labels" if name == "cifar10" else b"fine_labels"
            batch = {
                b"batch_label": b"training batch",
                key: labels,
                b"data": rows,
                b"filenames": [b"%d_%d.png" % (seed, i) for i in range(count)],
            }
            if name == "cifar100":
                batch[b"coarse_labels"] = [label // 5 for label in labels]
            members[f"{folder}/{file}"] = python2_pickle(batch)
        else:
            columns = [np.array(labels, np.uint8)[:, None]]
            if name == "cifar100":
                columns.insert(0, columns[0] // 5)
            members[f"{folder}/{file}.bin"] = np.concatenate([*columns, rows], axis=1).tobytes()
    names = CIFAR10_NAMES if name == "cifar10" else CIFAR100_NAMES
    if kind == "binary":
        file = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        members[f"{folder}/{file}"] = b"\n".join(names) + b"\n"
    elif name == "cifar10":
        members[f"{folder}/batches.meta"] = python2_pickle({b"num_cases_per_batch": 10000, b"label_names": names})
    else:
        members[f"{folder}/meta"] = python2_pickle({b"fine_label_names": names, b"coarse_label_names": names[:20]})
    return members


def write_svhn(folder: Path, **counts: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(counts.items()):
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": noise(seed, 32, 32, 3, count), "y": labels}, do_compression=True)
    return folder


WNIDS = ("n01440764", "n01443537", "n01484850")
DEVKIT_NUMBERS = {"n01440764": 3, "n01443537": 1, "n01484850": 2}
"""The devkit numbers classes in an order of its own."""


def photo(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(120, 200, 2)
    return encoded(np.kron(noise(seed, height // 8, width // 8, 3), np.ones((8, 8, 1), np.uint8)), quality=90)


def write_imagenet(folder: Path, per_class: int = 8, validation: int = 9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    inner = {}
    for label, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{i}.JPEG": photo(1000 * label + i) for i in range(per_class)}
        inner[f"{wnid}.tar"] = write_tar(folder / "inner.tar", images).read_bytes()
    (folder / "inner.tar").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    images = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": photo(9000 + i) for i in range(validation)}
    write_tar(folder / "ILSVRC2012_img_val.tar", images)
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(number, wnid, "a fish", 0) for wnid, number in sorted(DEVKIT_NUMBERS.items(), key=lambda pair: pair[1])]
    synsets = np.array([*rows, (4, "n01429349", "fish", 3)], dtype=kind)[:, None]
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{DEVKIT_NUMBERS[WNIDS[i % 3]]}\n" for i in range(validation))
    members = {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", members, "w:gz")
    return folder
