"""Calibration of a backbone's precisions and their sensitivity, computed in shards.

The precisions of a tree with mixed prefixes are one shard; every other precision is a shard of its own.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quee.network.device import place
from quee.network.execution import MICRO_BATCH
from quee.network.files import load_backbone, load_quantized, save_quantized
from quee.network.predictions import DTYPE, Networks
from quee.precision import Precision
from quee.quantization.calibration import quantize_, quantize_paths
from quee.quantization.format_choice import answers, chosen
from quee.quantization.formats import FLOAT, FORMATS, round_products
from quee.quantization.mixed import sensitivity
from quee.settings.quantize import QuantizationConfig
from quee.work.io import table_writer, write_bytes
from quee.work.shards import Shard, read_shards, run_shards
from quee.work.store import Store
from quee.work.threads import alone
from quee.work.workers import Lanes

FILES = pa.schema([("precision", pa.string()), ("content", pa.large_binary())])


def calibrate(
    networks: Networks,
    together: Sequence[QuantizationConfig],
    alone: Sequence[QuantizationConfig],
    ids: np.ndarray,
    seed: int,
    store: Store,
    units: Path,
    lanes: Lanes,
    out: Path,
) -> None:
    """Quantize the float backbone on samples `ids` (n,) into `out`, a file for each config.

    Networks of `together` are calibrated on the prefixes that they produce for each other, drawn by `seed`; networks of
    `alone` each on their own states. `units` is a folder, visible to all workers, for finished units of networks in
    progress. Raises QueeError as `quantize_` does.
    """
    groups = [tuple(together)] if together else []
    groups += [(config,) for config in alone]
    kept, folder = store / f"calibrations-{networks.digest}", str(units.resolve() / "units")
    shards = [
        Shard("-".join(str(c.precision) for c in group), compute_calibration,
              (networks, group, bool(together) and not index, ids, seed, folder))
        for index, group in enumerate(groups)
    ]  # fmt: skip
    run_shards(shards, kept, lanes, "quantizing")
    for data in read_shards(shards, kept):
        for row in pq.read_table(pa.BufferReader(data)).to_pylist():
            write_bytes(out / f"{row['precision']}.safetensors", row["content"])


def compute_calibration(
    networks: Networks,
    configs: tuple[QuantizationConfig, ...],
    mixed: bool,
    ids: np.ndarray,
    seed: int,
    units: str,
) -> bytes:
    """Files of networks at the configs' precisions, as a Parquet file's bytes. Runs in any process."""
    with alone():
        networks.check()
        backbone = load_backbone(Path(networks.backbone)).to(place(networks.device))
        batches = [x for _, x, _ in networks.images().batches(ids, backbone.input, 64)]
        if mixed:
            models: dict[Precision, Any] = dict(quantize_paths(backbone, configs, batches, seed, Path(units)))
        else:
            models = {c.precision: quantize_(deepcopy(backbone), c, batches, Path(units)) for c in configs}
    rows = []
    with TemporaryDirectory() as folder:
        for precision, model in models.items():
            save_quantized(Path(folder), precision, model)
            file = Path(folder) / f"{precision}.safetensors"
            rows.append({"precision": str(precision), "content": file.read_bytes()})
    sink = pa.BufferOutputStream()
    with table_writer(sink, FILES) as writer:
        writer.write_table(pa.Table.from_pylist(rows, FILES))
    return sink.getvalue().to_pybytes()


def choose_format(networks: Networks, ids: np.ndarray, store: Store, lanes: Lanes) -> tuple[str, list[dict[str, Any]]]:
    """The number format of products that calibration does not quantize, and what was measured on samples `ids` (n,).

    `format_choice.chosen` has the rule and the columns. A format is a shard.
    """
    kept = store / f"formats-{networks.digest}"
    names = (FLOAT, *FORMATS)
    shards = [Shard(name, compute_answers, (networks, name, ids)) for name in names]
    run_shards(shards, kept, lanes, "number formats")
    found = (np.frombuffer(data, DTYPE) for data in read_shards(shards, kept))
    return chosen(dict(zip(names, found, strict=True)))


def compute_answers(networks: Networks, name: str, ids: np.ndarray) -> bytes:
    """Classes of the float network with its products in one format, as `DTYPE`. Runs in any process."""
    with alone():
        networks.check()
        on = place(networks.device)
        network = round_products(load_backbone(Path(networks.backbone)), name).to(on)
        batches = networks.images().batches(ids, network.input, MICRO_BATCH)
        found = [answers(network, x.to(on)) for _, x, _ in batches]
    return np.concatenate(found).astype(DTYPE).tobytes()


def measure_sensitivity(
    networks: Networks, precisions: Sequence[Precision], ids: np.ndarray, store: Store, lanes: Lanes
) -> dict[Precision, list[dict[str, Any]]]:
    """Rows of `sensitivity` on samples `ids` (n,) for each precision; a precision is a shard."""
    kept = store / f"sensitivity-{networks.digest}"
    shards = [Shard(str(precision), compute_sensitivity, (networks, str(precision), ids)) for precision in precisions]
    run_shards(shards, kept, lanes, "sensitivity of layers")
    return {p: json.loads(data) for p, data in zip(precisions, read_shards(shards, kept), strict=True)}


def compute_sensitivity(networks: Networks, precision: str, ids: np.ndarray) -> bytes:
    """The rows of one precision as JSON. Runs in any process."""
    with alone():
        networks.check()
        assert networks.quantized is not None
        backbone = load_backbone(Path(networks.backbone))
        quantized = load_quantized(Path(networks.quantized), Precision(precision), backbone)
        on, transform = place(networks.device), backbone.input
        _, images, labels = next(networks.images().batches(ids, transform, len(ids)))
        return json.dumps(sensitivity(backbone.to(on), quantized.to(on), images.to(on), labels.to(on))).encode()
