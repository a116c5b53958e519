"""docs/bundle-format.md is complete: it names every field of the description and every input and output of the gates."""

import re
from dataclasses import fields
from pathlib import Path

import onnx
import pytest

from quee.runtime.gate import KEPT
from quee.runtime.manifest import FORMAT, Manifest
from quee.runtime.operating import Guarantee, Options, Point
from quee.work.io import read_json

PAGE = (Path(__file__).parents[3] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([\w.]+)`", PAGE))


@pytest.mark.parametrize(
    "names",
    [set(Manifest.model_fields), {f.name for f in fields(Point)}, {f.name for f in fields(Guarantee)}],
    ids=["bundle.json", "operating points", "guarantees"],
)
def test_every_field_is_in_the_specification(names: set[str]) -> None:
    assert names - NAMED == set()
    assert f"**format {FORMAT}**" in PAGE


def test_every_way_to_ask_is_in_the_specification() -> None:
    section = PAGE.partition("## Which operating point")[2].partition("\n## ")[0]
    assert {field.name for field in fields(Options)} - set(re.findall(r"`(\w+)`", section)) == set()


def test_everything_in_a_bundle_is_in_the_specification(bundle: Path) -> None:
    manifest, tree = read_json(bundle / "bundle.json"), read_json(bundle / "tree.json")
    assert set(manifest) | set(tree) | set(tree["nodes"][0]) <= NAMED | {"bitflops"}
    kinds = {re.sub(r"w\da\d", "PRECISION", name).replace("fitted_q", "POLICY") for name in manifest["files"]}
    assert {re.sub(r"(segment|gate)\d", lambda m: m[1] + m[1][0].upper(), kind) for kind in kinds} <= NAMED
    assert set(manifest["preprocessing"]) <= NAMED
    values = set(KEPT) | set(KEPT.values())
    for name in (name for files in (*manifest["graphs"].values(), *manifest["gates"].values()) for name in files):
        graph = onnx.load(bundle / name).graph
        values |= {value.name for value in (*graph.input, *graph.output)}
    assert values <= NAMED
