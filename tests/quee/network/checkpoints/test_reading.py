"""Weights files in the layouts that their authors publish, and files with other contents than they seem to have."""

import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quee.errors import IntegrityError, QueeError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.checkpoints.reading import fit_state, read_checkpoint


@pytest.fixture
def backbone() -> SegmentedBackbone:
    return create_backbone("t2t_vit_7", depth=2, img_size=32, num_classes=10)


def weights(backbone: SegmentedBackbone) -> "OrderedDict[str, torch.Tensor]":
    random = torch.Generator().manual_seed(0)
    return OrderedDict((key, torch.randn(v.shape, generator=random)) for key, v in backbone.state_dict().items())


def prefixed(state: dict[str, torch.Tensor], prefix: str = "module.") -> "OrderedDict[str, torch.Tensor]":
    return OrderedDict((prefix + key, value) for key, value in state.items())


LAYOUTS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "arch": "t2t_vit_7", "state_dict": state, "metric": 71.7},
    "ema": lambda state: {
        "state_dict": {key: torch.zeros_like(value) for key, value in state.items()},
        "state_dict_ema": prefixed(state),
        "args": Namespace(model="t2t_vit_7", lr=1e-3, mean=None),
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "transfer": lambda state: {"net": prefixed(state), "acc": 98.3, "epoch": 59},
    "model": lambda state: {"model": state},
    "compiled": lambda state: prefixed(prefixed(state, "_orig_mod."), "module."),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_authors_layouts_load(layout: str, legacy: bool, backbone: SegmentedBackbone, tmp_path: Path) -> None:
    state = weights(backbone)
    path = tmp_path / "71.7_T2T_ViT_7.pth.tar"
    torch.save(LAYOUTS[layout](state), path, _use_new_zipfile_serialization=not legacy)
    loaded = fit_state(backbone, read_checkpoint(path).state, str(path))
    backbone.load_state_dict(loaded)
    assert type(loaded) is dict
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


def test_safetensors_load_whatever_their_name(backbone: SegmentedBackbone, tmp_path: Path) -> None:
    state = weights(backbone)
    save_file(dict(state), tmp_path / "weights.pth")
    loaded = read_checkpoint(tmp_path / "weights.pth").state
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_views_of_one_tensor_become_independent(tmp_path: Path) -> None:
    both = torch.arange(6.0)
    torch.save({"a": both[:3], "b": both.reshape(2, 3).t()}, tmp_path / "views.pth")
    loaded = read_checkpoint(tmp_path / "views.pth").state
    loaded["a"].zero_()
    assert torch.equal(loaded["b"], torch.arange(6.0).reshape(2, 3).t())
    assert loaded["b"].is_contiguous()


def test_a_checkpoint_of_another_network_names_the_keys(backbone: SegmentedBackbone, tmp_path: Path) -> None:
    torch.save({"state_dict": create_backbone("t2t_vit_7", depth=3, img_size=32).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(QueeError) as raised:
        fit_state(backbone, read_checkpoint(tmp_path / "x.pth").state, "x.pth")
    message = str(raised.value)
    assert message.startswith("x.pth does not fit t2t_vit_7: left-over keys: blocks.2.attn.")
    assert "head.weight (1000, 256) instead of (10, 256)" in message
    assert "\n" not in message


def test_a_new_head_keeps_its_own_weights(backbone: SegmentedBackbone) -> None:
    state = weights(create_backbone("t2t_vit_7", depth=2, img_size=224, num_classes=1000))
    loaded = fit_state(backbone, state, "imagenet", new_head=True)
    assert torch.equal(loaded["head.weight"], backbone.state_dict()["head.weight"])
    assert torch.equal(loaded["norm.weight"], state["norm.weight"])
    assert loaded["pos_embed"].shape == (1, 5, 256)


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["QUEE_TEST_MALICE"],))


@pytest.mark.parametrize("wrapped", [False, True], ids=["pickle", "zip"])
def test_a_file_that_would_run_code_is_refused(wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    monkeypatch.setenv("QUEE_TEST_MALICE", str(made))
    path = tmp_path / "weights.pth"
    if wrapped:
        torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Malice()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Malice()}, protocol=2))
    with pytest.raises(QueeError, match=r"it holds posix\.mkdir") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert raised.value.exit_status == 1
    assert not made.exists()


def damaged(kind: str, path: Path) -> Path:
    whole = path.with_name("whole")
    torch.save({"a": torch.zeros(1000)}, whole)
    content = whole.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "text": b"<html>404 not found</html>",
            "truncated safetensors": (1000).to_bytes(8, "little") + b'{"a": ' + bytes(2000),
        }[kind]
    )
    return path


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "truncated safetensors"])
def test_a_damaged_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path / "weights.pth")
    with pytest.raises(QueeError, match="weights.pth") as raised:
        read_checkpoint(path)
    assert raised.value.exit_status == 4
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "loss": 0.5}, "no weights .found: epoch, loss"),
        ({}, "no weights .found: nothing"),
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a has values that are not finite"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "a claims shape"),
        ({"a": torch.zeros(3).to_sparse()}, "a is not a plain dense tensor"),
        ({"a": torch.zeros(3, device="meta")}, "a is not a plain dense tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_holds_no_plain_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(QueeError, match=message):
        read_checkpoint(tmp_path / "weights.pth")


def test_size_is_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(100_000)}, path)
    with pytest.raises(QueeError, match="bytes; at most 1,000 are read"):
        read_checkpoint(path, max_bytes=1000)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert packed.stat().st_size < 10_000
    with pytest.raises(QueeError, match="unpacks to"):
        read_checkpoint(packed, max_bytes=10_000)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="missing file: .*none.pth"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("averaged", "other"),
    [
        ("swa_model", "model"),
        ("model_averaged", "state_dict"),
        ("ema_model", "net"),
        ("teacher_ema", "model"),
        ("best.ema", "best"),
    ],
)
def test_averaged_weights_come_first_whatever_they_are_called(
    averaged: str, other: str, backbone: SegmentedBackbone, tmp_path: Path
) -> None:
    state, path = weights(backbone), tmp_path / "w.pth"
    torch.save({other: {key: value + 1 for key, value in state.items()}, averaged: state}, path)
    found = read_checkpoint(path)
    assert all(torch.equal(value, state[key]) for key, value in found.state.items())
    assert f"of '{averaged}', not of" in found.said


def test_two_kinds_of_averaged_weights_are_not_chosen_from(backbone: SegmentedBackbone, tmp_path: Path) -> None:
    state = weights(backbone)
    torch.save({"swa_model": state, "polyak": state, "model": state}, tmp_path / "w.pth")
    with pytest.raises(QueeError, match="holds several sets of weights: swa_model, polyak, model; save one"):
        read_checkpoint(tmp_path / "w.pth")
