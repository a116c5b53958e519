"""Images per second from Parquet to normalised batches, beside torchvision's ImageFolder with a DataLoader.

    python benchmarks/data.py [--images 2000] [--repeats 7] [--workers 2]

Both read the same synthetic images: JPEGs of 500×375 pixels, resized, cropped to 224×224 and normalised; and PNGs of
32×32, normalised, which quee decodes once into a memory-mapped array (made before the clock runs). Repeats alternate;
a ratio is that of one repeat's two runs, and the median of the ratios is what counts.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from quee.data import unregistered
from quee.data.importers import import_dataset
from quee.data.source import ImageSource
from quee.data.transforms import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_folders(folder: Path, images: int, size: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(0)
    for index in range(images):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        path = folder / "train" / f"class_{index % 10}" / f"{index}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def rate(batches: Callable[[], Iterable[object]], images: int) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    return images / (time.perf_counter() - start)


def compare(images: int, size: tuple[int, int], kind: str, crop: int, options: argparse.Namespace) -> None:
    """Print both loaders' rates and their ratio for synthetic images of one kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folders(folder, images, size, kind)
        os.chdir(folder)  # where .quee/ goes
        import_dataset("benchmark", folder, folder / "data" / "benchmark")
        ours = ImageSource(folder / "data" / "benchmark", unregistered("benchmark"))
        ours.image_size()  # decodes small images into their array
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    compare(options.images, (500, 375), "jpg", 224, options)
    compare(5 * options.images, (32, 32), "png", 32, options)


if __name__ == "__main__":
    main()
