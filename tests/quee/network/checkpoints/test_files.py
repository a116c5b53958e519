"""Kinds of weights files: those that are read, in every number format, and those that are refused by name."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quee.errors import IntegrityError, QueeError
from quee.network.checkpoints.reading import read_checkpoint

STATE = {"blocks.0.norm1.weight": torch.linspace(-1, 1, 7), "head.weight": torch.arange(6.0).reshape(2, 3)}


def written(kind: str, state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})  # type: ignore[arg-type]
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pth")
    return path


KINDS = ("safetensors", "pth", "legacy", "npz")


FORMATS = [
    (kind, dtype)
    for kind in KINDS
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)
    if not (kind == "npz" and dtype in (torch.bfloat16, torch.float8_e4m3fn))  # numpy has no such numbers
    and not (kind == "legacy" and dtype == torch.float8_e4m3fn)  # nor had PyTorch then
]


@pytest.mark.parametrize(("kind", "dtype"), FORMATS)
def test_every_number_format_becomes_float32(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in STATE.items()}
    found = read_checkpoint(written(kind, state, tmp_path))
    assert all(torch.equal(found.state[key], value.float()) for key, value in state.items())
    assert all(value.dtype == torch.float32 for value in found.state.values())
    assert ("as float32" in found.said) == (dtype != torch.float32)


def test_jaxs_bfloat16_in_an_npz(tmp_path: Path) -> None:
    bits = STATE["head.weight"].bfloat16().view(torch.int16).numpy().view("V2")
    np.savez(tmp_path / "w.npz", **{"head.weight": bits})  # type: ignore[arg-type]
    assert torch.equal(read_checkpoint(tmp_path / "w.npz").state["head.weight"], STATE["head.weight"])


def test_numbers_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "w.pth")
    with pytest.raises(QueeError, match="a has values that are not finite"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_checkpoint_in_several_files(kind: str, tmp_path: Path) -> None:
    for number, (key, value) in enumerate(STATE.items()):
        written(kind, {key: value}, tmp_path).rename(tmp_path / f"part-{number}.{kind}")
    names = {key: f"part-{number}.{kind}" for number, key in enumerate(STATE)}
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 52}, "weight_map": names}))
    assert all(torch.equal(value, STATE[key]) for key, value in read_checkpoint(index).state.items())
    assert f"of model.{kind}.index.json" in read_checkpoint(tmp_path).said
    written(kind, {"more": torch.ones(2)}, tmp_path).rename(tmp_path / f"model-3-of-2.{kind}")
    with pytest.raises(QueeError, match=f"does not name model-3-of-2.{kind}, a part beside it"):
        read_checkpoint(index)
    (tmp_path / f"model-3-of-2.{kind}").unlink()
    with pytest.raises(QueeError, match="at most 100 are read"):
        read_checkpoint(index, max_bytes=100)
    index.write_text(json.dumps({"weight_map": {**names, "extra": f"part-0.{kind}"}}))
    with pytest.raises(QueeError, match="extra is in none of its 2 parts"):
        read_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {**names, "extra": "../part-0"}}))
    with pytest.raises(QueeError, match="not beside it"):
        read_checkpoint(index)
    (tmp_path / f"part-1.{kind}").unlink()
    index.write_text(json.dumps({"weight_map": names}))
    with pytest.raises(IntegrityError, match=rf"missing file: .*part-1.{kind}, which .* names; it has 2 parts"):
        read_checkpoint(index)


def test_parts_that_disagree_with_their_index_are_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    save_file({"a": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(1), "c": torch.zeros(1)}, tmp_path / "2.safetensors")
    with pytest.raises(QueeError, match="does not name c, which is in one of its parts"):
        read_checkpoint(index)
    save_file({"a": torch.ones(1), "b": torch.zeros(1)}, tmp_path / "2.safetensors")
    with pytest.raises(QueeError, match="a is in another part of model.safetensors.index.json, too"):
        read_checkpoint(index)


def torch_script(path: Path) -> None:
    torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(str(path))  # type: ignore[no-untyped-call]


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("saved_model.pb", b"")


NAMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "torchscript": (torch_script, r"TorchScript archive, a program.*torch.jit.load\('w.pt'\).state_dict\(\)"),
    "module": (
        lambda path: torch.save(nn.Linear(3, 2), path),
        r"whole pickled module \(torch.nn.modules.linear.Linear\).{,400} and \d+ more, which docs/backbones.md#weights lists$",
    ),
    "wrapped module": (lambda path: torch.save({"model": nn.Linear(3, 2), "epoch": 1}, path), "whole pickled module"),
    "legacy module": (
        lambda path: torch.save(nn.Linear(3, 2), path, _use_new_zipfile_serialization=False),
        "whole module with its source",
    ),
    "optimizer": (
        lambda path: torch.save(torch.optim.SGD(nn.Linear(3, 2).parameters(), 0.1).state_dict(), path),
        "the state of an optimizer; save model.state_dict",
    ),
    "optimizer beside": (
        lambda path: torch.save({"optimizer": {"state": {0: {"m": torch.zeros(2)}}, "param_groups": []}}, path),
        "the state of an optimizer",
    ),
    "arrays in a pickle": (lambda path: torch.save({"head.weight": np.zeros(3)}, path), "holds no weights|no tensor"),
    "quantized": (
        lambda path: torch.save({"a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)}, path),
        "a is not a plain dense tensor",
    ),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    "page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a page of HTML"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "a GGUF file"),
    "npy": (lambda path: np.save(path.open("wb"), np.zeros(3)), "one array of numpy"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(99)), "a gzip archive: unpack it first"),
    "tar": (tar, "a tar archive; unpack it first"),
    "zip": (archive, r"a zip archive of other files \(saved_model.pb\)"),
    "json": (lambda path: path.write_text('{"architectures": ["ViT"]}'), "JSON, but not the index of a checkpoint"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NAMED)
def test_what_is_not_read_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    make, message = NAMED[kind]
    make(tmp_path / "w.pt")
    with pytest.raises(QueeError, match=message) as raised:
        read_checkpoint(tmp_path / "w.pt")
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "w.pt") in str(raised.value)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "ema", "model_state_dict", "my_own_name"])
def test_wrappers_are_found_and_said(key: str, tmp_path: Path) -> None:
    torch.save(
        {key: STATE, "epoch": 3, "optimizer": {"state": {0: {"m": torch.zeros(2)}}, "param_groups": []}}, tmp_path / "w"
    )
    found = read_checkpoint(tmp_path / "w")
    assert all(torch.equal(found.state[name], value) for name, value in STATE.items())
    assert f"of {key!r}" in found.said


def test_averaged_weights_are_taken_and_the_others_said(tmp_path: Path) -> None:
    other = {name: torch.zeros_like(value) for name, value in STATE.items()}
    torch.save({"state_dict": other, "state_dict_ema": STATE}, tmp_path / "w")
    found = read_checkpoint(tmp_path / "w")
    assert torch.equal(found.state["head.weight"], STATE["head.weight"])
    assert "of 'state_dict_ema', not of state_dict" in found.said


def test_of_several_unknown_sets_none_is_guessed(tmp_path: Path) -> None:
    torch.save({"student": STATE, "teacher": STATE}, tmp_path / "w.pth")
    with pytest.raises(
        QueeError, match=r"several sets of weights: student, teacher; .*torch.load\('w.pth'\)\['student'\]"
    ):
        read_checkpoint(tmp_path / "w.pth")
