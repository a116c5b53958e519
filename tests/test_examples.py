"""The Python examples of README.md and docs/ run as they stand, page by page, in a folder that has what they speak of.

What differs from a reader's machine, because it would take minutes: `quee.fit` names the precisions of the tree and tries
one way to read the state, and networks have two narrow blocks and small images.
"""

import ast
import doctest
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from endpoint import serving
from PIL import Image
from plain_heads import read_plainly

import quee
from quee import errors

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PRECISIONS = ("w4a4", "w8a8")
World = dict[str, Any]


def examples(page: Path, language: str) -> list[str]:
    """The blocks of a page in a language."""
    return [block for found, block in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


WITH_PYTHON = [page for page in PAGES if examples(page, "python")]
WITH_REFUSALS = [page for page in PAGES if any(block.startswith(">>> ") for block in examples(page, ""))]


def digits() -> World:
    """Digits, and a small network that was shortly trained on them, so that it does not answer all of them alike."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = np.rint(found.images * 255 / 16).astype(np.uint8)[:120], found.target[:120]
    backbone = quee.create_backbone("vit_digits", (1, 2), embed_dim=16, depth=2, num_heads=2)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.01)
    x, y = torch.tensor(images[:, None] / 127.5 - 1, dtype=torch.float32), torch.tensor(labels)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(backbone(x), y).backward()
        optimizer.step()
    return {
        "backbone": backbone.eval(), "images": images, "labels": labels,
        "few": images[:60], "labels_of_few": labels[:60],
        "batches": [(images[:60], labels[:60]), (images[60:], labels[60:])],
    }  # fmt: skip


def with_bundle() -> World:
    """The same, and a bundle where the page has its own."""
    world = digits()
    if not Path("bundle").exists():
        quee.fit(world["backbone"], world["images"], world["labels"], "bundle")
    return world


def photos() -> World:
    """Coloured images of ten classes, and a checkpoint of the network that the page builds."""
    random = np.random.default_rng(0)
    return {"images": random.integers(0, 256, (50, 32, 32, 3), np.uint8), "labels": np.arange(50) % 10}


def tensors() -> World:
    return {"backbone": digits()["backbone"], "images": torch.randn(32, 1, 8, 8)}


def checkpoint() -> World:
    """The file of T2T-ViT's authors, with random weights."""
    weights = quee.create_backbone("t2t_vit_7").state_dict()
    torch.save({"state_dict_ema": {f"module.{key}": value for key, value in weights.items()}}, "71.7_T2T_ViT_7.pth.tar")
    return {"quee": quee}


OPENED = ExitStack()
"""What a page's world holds open until its test ends."""


def served() -> World:
    """A photograph, and a server of a bundle at the address that the page names."""
    import requests

    world, post = with_bundle(), requests.post
    Image.fromarray(world["images"][0]).save("photo.png")
    port = str(OPENED.enter_context(serving(Path("bundle"))).port)
    OPENED.callback(setattr, requests, "post", post)
    requests.post = lambda url, **options: post(url.replace("8000", port), **options)
    return {}


WORLDS: dict[str, Callable[[], World]] = {
    "README.md": photos, "start.md": photos, "python.md": digits, "bundles.md": with_bundle, "quantization.md": tensors,
    "backbones.md": checkpoint, "cost.md": dict, "serving.md": served,
}  # fmt: skip

LONG = {"start.md"}
"""Pages whose examples take half a minute and more."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder, and what the first lines of this file say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quee, "fit", partial(quee.fit, precisions=PRECISIONS), raising=False)
    read_plainly(monkeypatch)
    create = timm.create_model

    def small(name: str, checkpoint_path: str = "", **kwargs: Any) -> torch.nn.Module:
        kwargs |= {"depth": 2, "embed_dim": 48, "img_size": 32}
        if checkpoint_path:
            torch.save(create(name, **kwargs).state_dict(), checkpoint_path)
        return create(name, checkpoint_path=checkpoint_path, **kwargs)

    monkeypatch.setattr(timm, "create_model", small)
    with OPENED:
        yield


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in LONG else []) for p in WITH_PYTHON]
)
def test_an_example_runs(page: Path) -> None:
    torch.manual_seed(0)
    names: World = {"quee": quee}
    for block in examples(page, "python"):
        names.update(WORLDS[page.name]())
        for statement in ast.parse(block).body:
            if "quee.fit(" in ast.unparse(statement):
                shutil.rmtree("bundle", ignore_errors=True)  # each shows another way to the same bundle
            exec(compile(ast.Module([statement], []), page.name, "exec"), names)


def test_what_an_example_says_comes_out() -> None:
    """The numbers in comments of docs/python.md."""
    names: World = {}
    (block, _) = examples(ROOT / "docs/python.md", "python")
    lines = block.splitlines()
    exec("\n".join(lines[:-1]), names)
    assert len(names["tree"]) == 120 and tuple(names["state"].shape) == (64, 17, 64)
    assert f"# {eval(lines[-1].partition('#')[0], names):.4f} of" in lines[-1]


@pytest.mark.parametrize("page", WITH_REFUSALS, ids=lambda page: page.name)
def test_a_refusal_reads_as_shown(page: Path) -> None:
    for block in examples(page, ""):
        if block.startswith(">>> "):
            code, said = block.removeprefix(">>> ").strip().split("\n", 1)
            kind, _, message = said.partition(": ")
            with pytest.raises(getattr(errors, kind)) as refused:
                eval(code, {"quee": quee})
            assert str(refused.value) == message


MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("quee", "tasks", "flows")
    for file in (ROOT / folder).rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_in_a_docstring_gives_what_it_says(name: str) -> None:
    module = import_module(name)
    found = doctest.DocTestFinder().find(module)
    assert any(test.examples for test in found), "`>>>` where no docstring shows it"
    assert not doctest.testmod(module).failed


def test_every_page_with_examples_is_known() -> None:
    assert {page.name for page in WITH_PYTHON} == set(WORLDS)
