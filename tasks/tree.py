"""Stage `tree`: the precisions of the tree, its considered paths and the bits of its networks, named or measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from quee.cost import trace_cost
from quee.data.source import ImageSource, open_dataset
from quee.data.splits import split_ids
from quee.network.base import SegmentedBackbone
from quee.network.files import load_backbone
from quee.network.predictions import Networks
from quee.quantization.calibration_shards import choose_format
from quee.quantization.format_choice import LIMIT
from quee.quantization.format_choice import SAMPLES as COMPARED
from quee.quantization.formats import FORMATS, float_products
from quee.quantization.mixed import SAMPLES
from quee.settings.quantize import QuantizationConfig
from quee.trees.candidates import Found, measure, rows_of, spread
from quee.trees.search import Search
from quee.work.io import read_json
from quee.work.store import Store
from tasks.scale import Scale, read_scale
from tasks.stage import Stage, main


@dataclass(frozen=True)
class Inputs:
    """What the tree is settled from."""

    stage: Stage
    images: ImageSource
    ids: dict[str, np.ndarray]
    backbone: SegmentedBackbone
    networks: Networks
    scale: Scale
    store: Store

    @classmethod
    def of(cls, stage: Stage) -> "Inputs":
        prepared, scale = stage.input("prepare"), read_scale()
        dataset, files = stage.experiment.prepare.dataset, read_json(prepared / "dataset.json")["files"]
        return cls(
            stage,
            open_dataset(stage.data, dataset, files),
            split_ids(prepared / "splits.parquet"),
            load_backbone(stage.input("backbone")),
            Networks.at(stage.data, dataset, files, stage.input("backbone"), device=scale.device),
            scale,
            scale.store(stage),
        )

    @cached_property
    def macs(self) -> int:
        return trace_cost(self.backbone).macs

    def few(self) -> torch.Tensor:
        """A few calibration images (n, c, h, w)."""
        rows = spread(self.ids["calibration"], SAMPLES)
        return torch.cat([x for _, x, _ in self.images.batches(rows, self.backbone.input, SAMPLES)])


def run(stage: Stage) -> None:
    """Settle the tree: as the settings name it, or by what each candidate does on the validation split.

    The settings of stage `features` decide where it is computed; the result does not depend on it.
    """
    inputs, experiment = Inputs.of(stage), stage.experiment
    rows = rows_of(inputs.ids, experiment.quantize.seed)
    passes: list[int] = []

    def run_all(configs: Mapping[str, QuantizationConfig]) -> dict[str, Found]:
        passes.append(rows.passes(len(configs)))
        lanes = inputs.scale.lanes(inputs.macs * passes[-1])
        return measure(inputs.networks, configs, rows, inputs.store, lanes)

    labels = inputs.images.labels
    search = Search(
        inputs.backbone, experiment.paths, experiment.quantize, formats(inputs), inputs.few, run_all,
        labels[rows.fitted], labels[rows.judged], experiment.quantize.seed,
    )  # fmt: skip
    settled = search.settle()
    if settled.record:
        said = {"device": inputs.scale.device, "images": rows.described(), "passes": sum(passes)}
        settled = replace(settled, record={**settled.record, **said})
        print(f"tree of {', '.join(map(str, settled.tree.precisions))}", flush=True)
    settled.write(stage.out)


def formats(inputs: Inputs) -> dict[str, Any]:
    """The number format of products that calibration does not quantize, and what it was chosen from; empty without any."""
    products = float_products(inputs.backbone)
    if not products:
        return {}
    name, rows = str(inputs.stage.experiment.quantize.float_products), list[dict[str, Any]]()
    if name == "auto":
        few = spread(inputs.ids["validation"], COMPARED)
        lanes = inputs.scale.lanes(inputs.macs * len(few) * (1 + len(FORMATS)))
        name, rows = choose_format(inputs.networks, few, inputs.store, lanes)
    return {"format": name, "limit": LIMIT, "measured": rows, "products": products}


if __name__ == "__main__":
    main(run)
