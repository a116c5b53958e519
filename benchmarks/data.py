"""Images per second from Parquet to normalised batches, beside torchvision's ImageFolder with a DataLoader.

    python benchmarks/data.py [--images 2000] [--repeats 5] [--workers 2]

Both read the same synthetic JPEGs (about 500×375 pixels), resize, crop to 224×224 and normalise. Repeats alternate.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from io import BytesIO
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


def write_folders(folder: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(images):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        path = folder / "train" / f"class_{index % 10}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=90)
        path.write_bytes(buffer.getvalue())


def rate(batches: Callable[[], Iterable[object]], images: int) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folders(folder, options.images)
        import_dataset("benchmark", folder, folder / "data" / "benchmark")
        ours = ImageSource(folder / "data" / "benchmark", unregistered("benchmark"))
        transform = Preprocessing((224, 224), 0.9, "bicubic", MEAN, STD, 3)
        resize = transforms.Resize(248, transforms.InterpolationMode.BICUBIC)
        steps = [resize, transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
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
                rates[contender].append(rate(batches, options.images))
    for contender, found in rates.items():
        print(f"{contender:12} {median(found):8.0f} images/s (from {min(found):.0f} to {max(found):.0f})")
    ratios = [a / b for a, b in zip(rates["quee"], rates["torchvision"], strict=True)]
    print(f"ratio        {median(ratios):8.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
