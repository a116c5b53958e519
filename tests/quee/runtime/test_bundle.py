"""Bundles: an altered bundle is refused with the reason before anything is executed; older formats are read or refused with
advice."""

import ast
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from quee.errors import IntegrityError, UsageError
from quee.quantization.layers import Quantizer
from quee.runtime import load_bundle
from quee.runtime.manifest import FORMAT, own_digest, read_manifest, seal
from quee.runtime.operating import Options
from quee.work.io import json_bytes, read_json, read_tensors, write_json, write_tensors

ROOT = Path(__file__).parents[3]
OLD = ROOT / "tests" / "fixtures" / "bundle_format_1"
"""Written by the version before format 2."""


@pytest.fixture
def executed() -> Iterator[list[str]]:
    """Names of the networks' layers that run during a test; a quantizer that computes its own grid does not count."""
    ran: list[str] = []

    def note(module: nn.Module, inputs: object) -> None:
        if not isinstance(module, Quantizer):
            ran.append(type(module).__name__)

    handle = register_module_forward_pre_hook(note)
    yield ran
    handle.remove()


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def described(folder: Path, **changes: object) -> None:
    """Change the description, and its digest with it."""
    value = {**json.loads((folder / "bundle.json").read_text()), **changes}
    value["digest"] = own_digest(value)
    (folder / "bundle.json").write_bytes(json_bytes(value))


def resealed(folder: Path) -> None:
    """Make all digests fit the files as they are."""
    value = json.loads((folder / "bundle.json").read_text())
    seal(folder, {key: v for key, v in value.items() if key not in ("digest", "files", "format")})


def test_a_bundle_of_format_1_is_read_through_its_migration() -> None:
    assert json.loads((OLD / "bundle.json").read_text())["format"] == 1
    manifest = read_manifest(OLD)
    assert manifest.format == FORMAT and manifest.digest is None and manifest.preprocessing is None
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    assert load_bundle(OLD).predict(images).shape == (3,)


def test_a_migrated_bundle_answers_as_one_written_today(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(OLD, tmp_path / "bundle"))
    value = json.loads((copied / "bundle.json").read_text())
    old = load_bundle(OLD)
    preprocessing = {
        k: getattr(old.transform, k) for k in ("channels", "crop_pct", "interpolation", "mean", "size", "std")
    }
    kept = {k: v for k, v in value.items() if k not in ("files", "format")}
    kept["operating_points"] = [{**point, "policy": value["policy"]} for point in value["operating_points"]]
    seal(
        copied, {**kept, "canary": False, "ensembles": False, "gates": {}, "graphs": {}, "preprocessing": preprocessing}
    )
    assert read_manifest(copied).digest is not None
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
    before, after = old.route(images, budget=0.3), load_bundle(copied).route(images, budget=0.3)
    assert before.path == after.path and np.array_equal(before.probabilities, after.probabilities)


@pytest.mark.parametrize(
    ("number", "hint"), [(0, "make the bundle anew"), (99, "update quee"), ("2", "anew"), (None, "anew")]
)
def test_other_formats_are_refused_with_what_to_do(copy: Path, number: object, hint: str) -> None:
    described(copy, format=number)
    with pytest.raises(IntegrityError, match=f"reads 1, 2, 3, 4, 5, 6, 7: .*{hint}"):
        load_bundle(copy)


def test_a_description_cannot_pass_for_one_of_the_older_format(copy: Path) -> None:
    described(copy, format=1)
    with pytest.raises(IntegrityError, match="format 1 has no"):
        load_bundle(copy)


NEW_IN_6 = ("taken", "accuracy_loss", "accuracy_loss_limit", "policy")


def written_before(value: dict[str, Any], number: int) -> bytes:
    """The description in an earlier format, without gates and what its operating points did not have."""
    value = {key: kept for key, kept in value.items() if key != "gates"}
    if number < 6:
        points = [{k: v for k, v in point.items() if k not in NEW_IN_6} for point in value["operating_points"]]
        value["operating_points"] = points
    value["format"] = number
    return json_bytes({**value, "digest": own_digest(value)})


def test_a_bundle_of_format_6_is_read_without_gates(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, images = (
        read_json(copy / "bundle.json"),
        np.random.default_rng(0).integers(256, size=(9, 8, 8), dtype=np.uint8),
    )
    before = load_bundle(copy).route(images, budget=0.3)
    for name in (name for names in value["gates"].values() for name in names):
        (copy / name).unlink()
        del value["files"][name]
    (copy / "bundle.json").write_bytes(written_before(value, 6))
    found = load_bundle(copy)
    assert found.description["format"] == FORMAT
    assert found.description["gates"] == {}
    assert np.array_equal(found.route(images, budget=0.3).probabilities, before.probabilities)
    six = {**value, "format": 6}
    (copy / "bundle.json").write_bytes(json_bytes({**six, "digest": own_digest(six)}))
    with pytest.raises(IntegrityError, match="format 6 has no gates"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda gates: {"plan": gates["fitted_q"]},
        lambda gates: {"fitted_q": gates["fitted_q"][1:]},
        lambda gates: {"fitted_q": gates["fitted_q"][::-1]},
    ],
    ids=["of another policy", "too few", "in another order"],
)
def test_gates_that_are_not_the_policies_are_refused(copy: Path, change: Callable[[dict], dict]) -> None:
    described(copy, gates=change(read_json(copy / "bundle.json")["gates"]))
    with pytest.raises(IntegrityError, match=r"gates are not those of fitted_q, from 1 to 3"):
        load_bundle(copy)


def test_a_bundle_of_format_5_is_read_with_budgets_that_are_spent_and_guarantees_in_points(copy: Path) -> None:
    value = json.loads((copy / "bundle.json").read_text())
    guarantee = {"what": "accuracy_loss", "limit": 0.01, "method": "learn_then_test", "delta": 0.1, "samples": 300}
    place = {"trade_off": value["operating_points"][3]["trade_off"], "cost": value["operating_points"][3]["cost"]}
    (copy / "bundle.json").write_bytes(written_before({**value, "guarantees": [{**guarantee, **place}]}, 5))
    found = load_bundle(copy)
    assert found.description["format"] == FORMAT and found.points[3].taken is None
    (certified,) = found.guarantees
    assert (certified.limit, certified.certifies) == (1.0, False)
    assert "1 points of accuracy below the static network at the tree's highest precision" in certified.words
    for options in ({}, {"certified": True}):
        with pytest.raises(UsageError, match="accuracy loss|does not know"):
            found.operating(Options(accuracy_loss=1.0, **options))
    five = {**value, "format": 5}
    (copy / "bundle.json").write_bytes(json_bytes({**five, "digest": own_digest(five)}))
    with pytest.raises(IntegrityError, match="in format 5 no operating point names a policy, serves others"):
        load_bundle(copy)


def test_a_point_is_served_by_no_dearer_one(copy: Path) -> None:
    points = json.loads((copy / "bundle.json").read_text())["operating_points"]
    described(copy, operating_points=[{**points[0], "taken": 1}, *points[1:]])
    with pytest.raises(IntegrityError, match="operating point 0 is served by 1, which costs more"):
        load_bundle(copy)


def test_a_bundle_of_format_4_is_read_without_ensembles(copy: Path) -> None:
    """A bundle of today without its ensembles differs in little else from one of format 4."""
    (copy / "ensembles.safetensors").unlink()
    value = json.loads((copy / "bundle.json").read_text())
    kept = {k: v for k, v in value.items() if k not in ("digest", "ensembles", "canary", "files", "format")}
    (copy / "canary.safetensors").unlink()
    seal(copy, {**kept, "canary": False, "ensembles": False})
    written = {k: v for k, v in json.loads((copy / "bundle.json").read_text()).items() if k != "ensembles"}
    (copy / "bundle.json").write_bytes(written_before(written, 4))
    found = load_bundle(copy)
    assert found.description["format"] == FORMAT and found.executor.ensembles is None
    assert found.predict(np.zeros((3, 8, 8), np.uint8)).shape == (3,)
    described(copy, ensembles=False)
    with pytest.raises(IntegrityError, match="format 4 has no ensembles"):
        load_bundle(copy)


def test_points_of_a_bundle_of_format_5_are_of_its_policy(copy: Path) -> None:
    value = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_bytes(written_before(value, 5))
    found = load_bundle(copy)
    assert found.description["format"] == FORMAT
    assert {point.policy for point in found.points} == {"fitted_q"}
    assert set(found.route(np.zeros((3, 8, 8), np.uint8)).decided_by) == {"fitted_q"}


@pytest.mark.parametrize("name", ["plan", "no_such"])
def test_a_point_of_another_policy_than_the_bundle_holds_is_refused(copy: Path, name: str) -> None:
    points = json.loads((copy / "bundle.json").read_text())["operating_points"]
    described(copy, operating_points=[{**points[0], "policy": name}, *points[1:]])
    with pytest.raises(IntegrityError, match=name):
        load_bundle(copy)


def test_a_description_that_says_otherwise_of_ensembles_is_refused(copy: Path) -> None:
    described(copy, ensembles=False)
    with pytest.raises(IntegrityError, match=r"ensembles is False, which ensembles\.safetensors contradicts"):
        load_bundle(copy)


def test_ensembles_of_another_tree_are_refused(copy: Path) -> None:
    file = copy / "ensembles.safetensors"
    write_tensors(file, {name: array[1:] for name, array in read_tensors(file).items()})
    resealed(copy)
    with pytest.raises(IntegrityError, match=r"ensembles\.safetensors: weight has shape"):
        load_bundle(copy)


def write(path: Path, data: bytes = b"x") -> None:
    path.write_bytes(data)


def swap(a: Path, b: Path) -> None:
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


def link(path: Path, to: Path | str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda b: (b / "heads.safetensors").unlink(), r"heads.safetensors \(missing\)"),
    "left over": (lambda b: write(b / "extra.json"), r"extra.json \(left over\)"),
    "hidden": (lambda b: write(b / ".extra"), r".extra \(left over\)"),
    "folder": (lambda b: (b / "sub").mkdir(), "not a plain file"),
    "link": (lambda b: link(b / "w4a4.safetensors", OLD / "w4a4.safetensors"), "not a plain file"),
    "link inside": (lambda b: link(b / "README.md", "tree.json"), "not a plain file"),
    "left-over link": (lambda b: link(b / "extra", "nowhere"), "not a plain file"),
    "linked description": (lambda b: link(b / "bundle.json", OLD / "bundle.json"), "not a plain file"),
    "pipe": (lambda b: replaced(b / "README.md", os.mkfifo), "not a plain file"),
    "pipe for description": (lambda b: replaced(b / "bundle.json", os.mkfifo), "not a plain file"),
    "no description": (lambda b: (b / "bundle.json").unlink(), "holds no bundle: it has no bundle.json"),
    "swapped": (lambda b: swap(b / "w4a4.safetensors", b / "w8a8.safetensors"), "digest"),
    "huge description": (lambda b: write(b / "bundle.json", b" " * (17 << 20)), "at most"),
    "deep description": (lambda b: write(b / "bundle.json", b'{"a":' * 100_000), "not a bundle's description"),
    "empty description": (lambda b: write(b / "bundle.json", b""), "not a bundle's description"),
    "list": (lambda b: write(b / "bundle.json", b"[]\n"), "no object"),
    "reformatted": (
        lambda b: write(b / "bundle.json", b" " + (b / "bundle.json").read_bytes()),
        "form it was written in",
    ),
}


def test_where_no_bundle_is_it_says_what_one_is_and_which_are_near(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "artifacts" / "x" / "bundle"
    place.parent.mkdir(parents=True)
    copy.rename(place)
    (tmp_path / "notes.txt").write_text("no bundle")
    said = {
        ".": r"^\. holds no bundle: it has no bundle\.json\.",
        "artifacts/x": r"^artifacts/x holds no bundle: it has no bundle\.json",
        "x": "^no bundle at x: there is no such folder",
        "notes.txt": "^no bundle at notes.txt: that is a file",
    }
    for where, reason in said.items():
        with pytest.raises(IntegrityError, match=reason) as refused:
            load_bundle(where)
        assert "A bundle is the folder that `quee.fit` or stage `bundle` of `quee run` writes" in str(refused.value)
        assert str(refused.value).endswith("; near by: artifacts/x/bundle")
    with pytest.raises(IntegrityError, match="describes a bundle; give the folder that it lies in: artifacts/x/bundle"):
        load_bundle("artifacts/x/bundle/bundle.json")
    far = tmp_path / "far" / "away"
    far.mkdir(parents=True)
    monkeypatch.chdir(far)
    with pytest.raises(IntegrityError, match="`quee run` writes$"):
        load_bundle(far)


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_refused_with_its_reason(copy: Path, executed: list[str], fault: str) -> None:
    damage, reason = FAULTS[fault]
    damage(copy)
    with pytest.raises(IntegrityError, match=reason):
        load_bundle(copy)
    assert executed == []


@pytest.mark.parametrize(
    "name", ["../heads.safetensors", "/etc/passwd.json", "a/b.json", "a..b.json", ".b.json", "x.pkl", "a\\b.md"]
)
def test_names_that_lead_elsewhere_are_refused(copy: Path, name: str) -> None:
    files = json.loads((copy / "bundle.json").read_text())["files"]
    described(copy, files={**files, name: "0" * 64})
    with pytest.raises(IntegrityError, match="not allowed"):
        load_bundle(copy)


POINT = {"accuracy": 0.5, "trade_off": 0.1, "policy": "fitted_q"}
DESCRIPTIONS: dict[str, tuple[dict[str, object], str]] = {
    "unknown key": ({"more": 1}, "more"),
    "budget": ({"budget": 0.0}, "budget"),
    "budget type": ({"budget": "0.2"}, "budget"),
    "policy": ({"policy": "pickle"}, "policy"),
    "no points": ({"operating_points": []}, "operating_points"),
    "falling points": (
        {"operating_points": [{**POINT, "cost": c, "first": 0} for c in (0.2, 0.1)]},
        "do not rise",
    ),
    "unknown precision": (
        {"operating_points": [{**POINT, "cost": 0.1, "first": 7}]},
        "precision 7, unknown",
    ),
    "file map": ({"precision_files": {"w4a4": "w8a8.safetensors"}}, "precision_files"),
    "absent file": ({"precision_files": {"w4a4": "w2a3.safetensors"}}, "not among its files"),
    "no canary": ({"canary": False}, "canary"),
    "too few classes": ({"classes": ["a"]}, "classes"),
    "preprocessing": (
        {
            "preprocessing": {
                "channels": 1, "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5], "size": [8, 8], "std": [0.5],
            }
        },
        "preprocessing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", DESCRIPTIONS)
def test_a_description_that_does_not_hold_is_refused(copy: Path, executed: list[str], which: str) -> None:
    changes, reason = DESCRIPTIONS[which]
    described(copy, **changes)
    with pytest.raises(IntegrityError, match=reason):
        load_bundle(copy)
    assert executed == []


@pytest.mark.parametrize("file", ["canary", "fitted_q", "heads", "model", "predictors", "w4a4", "w8a8"])
@pytest.mark.parametrize("fault", ["shape", "missing", "other file"])
def test_tensors_that_do_not_fit_are_refused_whatever_their_digests(
    copy: Path, executed: list[str], file: str, fault: str
) -> None:
    path = copy / f"{file}.safetensors"
    if fault == "other file":
        shutil.copyfile(copy / ("heads.safetensors" if file != "heads" else "model.safetensors"), path)
    else:
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as opened:
            facts = {k: v for k, v in (opened.metadata() or {}).items() if k != "format"}
        arrays = read_tensors(path)
        name = next(n for n in sorted(arrays) if n.endswith(("weight", "log_probs")) and arrays[n].size > 10)
        if fault == "shape":
            arrays[name] = np.concatenate([arrays[name], arrays[name]])
        else:
            del arrays[name]
        write_tensors(path, arrays, facts)
    resealed(copy)
    with pytest.raises(IntegrityError):
        load_bundle(copy)
    assert executed == []


TREES: dict[str, Callable[[dict], object]] = {
    "segments": lambda t: t.update(segments=2),
    "precisions": lambda t: t.update(precisions=["w4a4"]),
    "parent": lambda t: t["nodes"][-1].update(parent=0),
    "gate": lambda t: t["nodes"][-1].update(gate=1),
    "negative cost": lambda t: t["nodes"][0].update(segment_cost=-1.0),
    "text cost": lambda t: t["nodes"][0].update(segment_cost="a"),
    "no cost": lambda t: t["nodes"][0].pop("head_cost"),
    "no unit": lambda t: t.update(unit_bitflops=0),
    "features": lambda t: t["feature_names"].pop(),
    "classes": lambda t: t["classes"].reverse(),
    "format": lambda t: t.update(format=99),
    "not prefix-closed": lambda t: t["nodes"].pop(0),
}


@pytest.mark.parametrize("which", TREES)
def test_a_tree_that_does_not_fit_is_refused(copy: Path, executed: list[str], which: str) -> None:
    tree = read_json(copy / "tree.json")
    TREES[which](tree)
    write_json(copy / "tree.json", tree)
    resealed(copy)
    with pytest.raises(IntegrityError):
        load_bundle(copy)
    assert executed == []


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay", "cache_dir"])
def test_a_backbone_whose_settings_would_read_other_files_is_refused(copy: Path, key: str) -> None:
    value = read_json(copy / "backbone.json")
    write_json(copy / "backbone.json", {**value, "kwargs": {**value["kwargs"], key: "x"}})
    resealed(copy)
    with pytest.raises(IntegrityError, match=key):
        load_bundle(copy)


def mutate(folder: Path, random: np.random.Generator) -> str:
    """Damage a bundle in a realistic way (bits, lengths, parts, names, links); returns how."""
    files = sorted(folder.iterdir())
    victim = files[random.integers(len(files))]
    data = bytearray(victim.read_bytes())
    kind = str(random.choice(["bit", "bit", "truncate", "append", "stretch", "swap", "rename", "link", "hole", "copy"]))
    at = int(random.integers(len(data)))
    if kind == "bit":
        data[at] ^= 1 << int(random.integers(8))
        victim.write_bytes(data)
    elif kind == "truncate":
        victim.write_bytes(data[:at])
    elif kind == "append":
        victim.write_bytes(data + bytes(random.integers(256, size=random.integers(1, 9), dtype=np.uint8)))
    elif kind == "stretch":  # bytes from elsewhere in the file, as a torn write leaves
        size = int(random.integers(1, 65))
        before = bytes(data)
        data[at : at + size] = bytes(reversed(data[at : at + size]))
        if bytes(data) == before:
            data[at] ^= 0xFF
        victim.write_bytes(data)
    elif kind == "swap":
        other = files[(files.index(victim) + 1 + random.integers(len(files) - 1)) % len(files)]
        swap(victim, other)
    elif kind == "rename":
        victim.rename(folder / f"{victim.name}.bak")
    elif kind == "link":
        target = folder.parent / "elsewhere"
        target.write_bytes(data)
        link(victim, target)
    elif kind == "hole":
        victim.unlink()
    else:
        shutil.copyfile(victim, folder / f"copy-{victim.name}")
    return f"{kind} {victim.name}"


def refuse_mutants(source: Path, folder: Path, count: int, seed: int, executed: list[str]) -> None:
    random = np.random.default_rng(seed)
    intact = {path.name: path.read_bytes() for path in source.iterdir()}
    folder.mkdir()
    accepted = []
    for _ in range(count):
        for path in folder.iterdir():
            if path.name not in intact or path.is_symlink() or path.read_bytes() != intact[path.name]:
                path.unlink()
        for name, data in intact.items():
            if not (folder / name).exists():
                (folder / name).write_bytes(data)
        how = mutate(folder, random)
        try:
            load_bundle(folder)
        except IntegrityError:
            continue
        accepted.append(how)
    assert accepted == []
    assert executed == []


def test_mutants_are_refused(bundle: Path, tmp_path: Path, executed: list[str]) -> None:
    refuse_mutants(bundle, tmp_path / "bundle", 400, 0, executed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twelve_thousand_mutants_are_refused(bundle: Path, tmp_path: Path, executed: list[str]) -> None:
    refuse_mutants(bundle, tmp_path / "bundle", 12_000, 1, executed)


def test_an_intact_bundle_is_what_the_mutants_are_not(bundle: Path, executed: list[str]) -> None:
    load_bundle(bundle, held=False)
    assert executed == []
    load_bundle(bundle)
    assert {"Block", "QuantizedLinear"} & set(executed)  # the canary; what runs is seen


FORBIDDEN = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}


@cache
def load_path() -> tuple[Path, ...]:
    """Every module of quee that loading and running a bundle may import, inside functions too."""
    found: set[Path] = set()
    # Checks of experiments as their YAML is read, and modules given to `quee.fit`: loading a bundle has neither.
    others = (ROOT / "quee/settings/requirements.py", ROOT / "quee/fitting/foreign.py")
    todo = [ROOT / "quee/runtime/__init__.py"]
    while todo:
        file = todo.pop()
        if file in found or file in others:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quee"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("quee."):
                names = [node.value.partition(":")[0]]  # `module:function` of a registry
            for name in names:
                parts = ROOT.joinpath(*str(name).split("."))
                todo += [p for p in (parts.with_suffix(".py"), parts / "__init__.py") if p.is_file()]
    return tuple(sorted(found))


def test_nothing_in_the_load_path_can_unpickle_or_execute_what_it_reads() -> None:
    files = load_path()
    assert {"files.py", "classifier.py", "t2t_vit.py", "executor.py", "exits.py"} <= {f.name for f in files}
    faults = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad = {name.partition(".")[0] for name in imported} & FORBIDDEN
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                bad |= {called} & CALLS
                if called == "torch.load" and given.get("weights_only") != "True":
                    bad.add(called)
                if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                    bad.add(called)
            faults += [f"{file.relative_to(ROOT)}:{node.lineno}: {name}" for name in bad]
    assert faults == []


WATCHED = ("pickle.find_class", "socket.", "urllib.", "http.", "subprocess.", "os.system", "os.exec", "marshal.load")


def test_loading_and_running_unpickles_nothing_and_asks_no_network(bundle: Path) -> None:
    seen: list[str] = []
    watching = True
    sys.addaudithook(lambda event, arguments: seen.append(event) if watching else None)  # cannot be taken away again
    assert pickle.loads(b"cbuiltins\nlen\n.") is len  # the hook does see what it is to see
    before = [event for event in seen if event.startswith(WATCHED)]
    seen.clear()
    load_bundle(bundle).predict(np.zeros((2, 8, 8), np.uint8))
    watching = False
    assert before and "open" in seen
    assert [event for event in seen if event.startswith(WATCHED)] == []
