"""Images per second from Parquet to normalised batches, beside torchvision's ImageFolder with a DataLoader.

    python benchmarks/data.py [--images 2000] [--repeats 7] [--workers 2] [--only loading|device|import]

Both read the same synthetic images: JPEGs of 500×375 pixels, resized, cropped to 224×224 and normalised; and PNGs of
32×32, normalised, which quee decodes once into a memory-mapped array (before the clock starts). Repeats alternate
between the two. Each repeat has one ratio of its two rates; the median ratio is the result.

`device` compares the loader's rate with what this machine's device computes from such batches. `import` imports 10,000
synthetic JPEGs from ImageNet's official archives in a process of its own and prints its peak memory.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from PIL import Image
from torchvision import datasets, transforms

from quee import create_backbone
from quee.data import dataset_called
from quee.data.importers import import_dataset
from quee.data.preprocessing import Preprocessing
from quee.data.source import ImageSource

IMPORTED = 10_000
IMPORT = """
from pathlib import Path
from quee.data.importers import import_dataset
import_dataset("imagenet", Path(), Path("data/imagenet"))
"""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_folders(folder: Path, images: int, size: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(0)
    for index in range(images):
        image = synthetic(rng, size)
        path = folder / "train" / f"class_{index % 10}" / f"{index}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def synthetic(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_archives(folder: Path, images: int, classes: int = 100) -> None:
    """ImageNet's training archive: a tar that holds one tar per class."""
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for label in range(classes):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for index in range(images // classes):
                    content = io.BytesIO()
                    synthetic(rng, (500, 375)).save(content, "jpeg", quality=90)
                    add(archive, f"n{label:08d}_{index}.JPEG", content.getvalue())
            add(outer, f"n{label:08d}.tar", inner.getvalue())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def importing(images: int) -> None:
    """Print rate and peak memory of an import from the official archives."""
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_archives(Path(name), images)
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen([sys.executable, "-c", IMPORT])
        while process.poll() is None:
            time.sleep(0.2)
            peak = max(peak, _resident(process.pid))
        seconds = time.perf_counter() - start
        os.chdir("/")
    if process.returncode:
        raise SystemExit(f"the import ended with {process.returncode}")
    print(
        f"import of {images} JPEGs from the official archives: {images / seconds:.0f} images/s, "
        f"at most {peak / 2**20:.0f} MB in all its processes together",
        flush=True,
    )


def _resident(pid: int) -> int:
    """Bytes of a process and its children, shared pages counted once (PSS)."""
    total = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def device(loaded: float, names: tuple[str, ...] = ("t2t_vit_7", "t2t_vit_14"), batch: int = 16) -> None:
    """Print this machine's rates beside `loaded`, the images/s of one loading worker."""
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch, 3, 224, 224, device=where)
    for name in names:
        backbone = create_backbone(name).to(where)
        with torch.inference_mode():
            inference = batch / seconds_of(partial(backbone, images), where)
        training = batch / seconds_of(partial(train, backbone, images), where)
        print(
            f"  {name} on {where}: {inference:.0f} images/s inference, {training:.0f} training; "
            f"one loading worker gives {loaded / inference:.1f} and {loaded / training:.1f} times that",
            flush=True,
        )


def train(backbone: torch.nn.Module, images: torch.Tensor) -> None:
    backbone(images).sum().backward()


def seconds_of(step: Callable[[], object], where: torch.device, repeats: int = 3) -> float:
    found = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        step()
        if where.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found[1:])


def rate(batches: Callable[[], Iterable[object]], images: int) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    return images / (time.perf_counter() - start)


def compare(images: int, size: tuple[int, int], kind: str, crop: int, options: argparse.Namespace) -> float:
    """Print both loaders' rates and their ratio for synthetic images of one kind; our rate per worker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folders(folder, images, size, kind)
        os.chdir(folder)  # `.quee/` is made in the working directory
        import_dataset("benchmark", folder, folder / "data" / "benchmark")
        ours = ImageSource(folder / "data" / "benchmark", dataset_called("benchmark"))
        ours.image_size()  # decodes small images into an array on disk
        crop_pct = 0.9 if crop != size[0] else 1.0
        transform = Preprocessing((crop, crop), crop_pct, "bicubic", MEAN, STD, 3)
        resize = [transforms.Resize(int(crop / crop_pct), transforms.InterpolationMode.BICUBIC)] if crop_pct < 1 else []
        steps = [*resize, transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        plain = datasets.ImageFolder(str(folder / "train"), transforms.Compose(steps))
        contenders: dict[str, Callable[[], Iterable[object]]] = {
            "quee": lambda: ours.batches(np.arange(len(ours)), transform, options.batch, 0, workers=options.workers),
            "torchvision": lambda: torch.utils.data.DataLoader(
                plain, options.batch, shuffle=True, num_workers=options.workers
            ),
        }
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        for _ in range(options.repeats):
            for contender, batches in contenders.items():
                rates[contender].append(rate(batches, images))
        os.chdir("/")
    print(f"{images} images of {size[0]}×{size[1]} ({kind}) to {crop}×{crop}, {options.workers} workers")
    for contender, found in rates.items():
        print(f"  {contender:12} {median(found):8.0f} images/s (from {min(found):.0f} to {max(found):.0f})")
    ratios = [a / b for a, b in zip(rates["quee"], rates["torchvision"], strict=True)]
    print(f"  ratio        {median(ratios):8.2f} (from {min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return median(rates["quee"]) / max(options.workers, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", choices=("loading", "device", "import"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only in (None, "loading", "device"):
        loaded = compare(options.images, (500, 375), "jpg", 224, options)
    if options.only in (None, "loading"):
        compare(5 * options.images, (32, 32), "png", 32, options)
    if options.only in (None, "device"):
        device(loaded)
    if options.only in (None, "import"):
        importing(IMPORTED)


if __name__ == "__main__":
    main()
