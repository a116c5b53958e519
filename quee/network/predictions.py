"""Predictions of whole networks, computed in shards; they give the accuracy of a backbone and of its precisions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from quee.data.source import ImageSource, open_dataset
from quee.network.device import CPU, place
from quee.network.execution import MICRO_BATCH, MultiPrecisionBackbone
from quee.network.files import load_precisions
from quee.precision import Precision
from quee.work.io import file_digest, verify_digests
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

PASSES = 16
"""Samples per shard relative to a shard of the feature cache; here a sample runs once, not through a tree."""
DTYPE = np.dtype("<i4")


@dataclass(frozen=True)
class Networks:
    """Absolute paths of images and networks for a worker, with the SHA-256 of the files, and the device that runs them."""

    data: str
    dataset: str
    digests: tuple[tuple[str, str], ...]
    backbone: str
    quantized: str | None
    files: tuple[tuple[str, str], ...]
    device: str = CPU

    @classmethod
    def at(
        cls,
        data: Path,
        dataset: str,
        digests: dict[str, str],
        backbone: Path,
        quantized: Path | None = None,
        device: str = CPU,
    ) -> "Networks":
        """The float backbone of a folder, and with `quantized` the networks in that folder."""
        folders = [folder.resolve() for folder in (backbone, quantized) if folder is not None]
        found = (file for folder in folders for file in sorted(folder.glob("*.safetensors")))
        return cls(
            str(data.resolve()),
            dataset,
            tuple(sorted(digests.items())),
            str(folders[0]),
            str(folders[1]) if quantized is not None else None,
            tuple((str(file), file_digest(file)) for file in found),
            device,
        )

    @property
    def digest(self) -> str:
        """Digest of the networks' contents; it does not depend on where they are stored."""
        named = [(Path(file).name, digest) for file, digest in self.files]
        return hashlib.sha256(repr(named).encode()).hexdigest()[:16]

    def images(self) -> ImageSource:
        return _images(self.data, self.dataset, self.digests)

    def check(self) -> None:
        """Raises IntegrityError naming a file with another digest; a worker on another machine may see other files."""
        verify_digests(Path(), dict(self.files))


@lru_cache(1)
def _images(data: str, dataset: str, digests: tuple[tuple[str, str], ...]) -> ImageSource:
    return open_dataset(Path(data), dataset, dict(digests))


def predict(
    networks: Networks,
    precisions: Sequence[Precision],
    ids: np.ndarray,
    store: Store,
    shard_size: int,
    lanes: Lanes,
    what: str,
) -> dict[Precision, np.ndarray]:
    """Classes (n,) that each uniform precision predicts for samples `ids` (n,). Finished shards are not computed again."""
    size = -(-PASSES * shard_size // MICRO_BATCH) * MICRO_BATCH  # so that every sample keeps its place in a micro-batch
    kept = store / f"predictions-{networks.digest}-{shard_size}"
    pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
    shards = [
        Shard(f"{precision}-{number:06d}", compute_predictions, (networks, str(precision), part))
        for precision in precisions
        for number, part in enumerate(pieces)
    ]
    run_shards(shards, kept, lanes, what)
    found = np.frombuffer(b"".join(read_shards(shards, kept)), DTYPE).reshape(len(precisions), len(ids))
    return dict(zip(precisions, found, strict=True))


def compute_predictions(networks: Networks, precision: str, ids: np.ndarray) -> bytes:
    """Classes that a uniform precision predicts, int32. Runs in any process."""
    with alone(), torch.inference_mode():
        backbone = _network(networks, precision)
        path = [Precision(precision)] * backbone.segments
        model = backbone.model(path[-1])
        batches = networks.images().batches(ids, model.input, MICRO_BATCH)
        logits = [backbone.classify(path[-1], backbone.run_path(path, x)).cpu() for _, x, _ in batches]
    return torch.cat(logits).argmax(dim=1).numpy().astype(DTYPE).tobytes()


@lru_cache(1)
def _network(networks: Networks, precision: str) -> MultiPrecisionBackbone:
    networks.check()
    folder = Path(networks.quantized or networks.backbone)
    return load_precisions(Path(networks.backbone), folder, [Precision(precision)]).to(place(networks.device))
