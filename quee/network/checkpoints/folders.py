"""The weights in a folder: which file it is, and that there is only one."""

from pathlib import Path

from quee.errors import IntegrityError, QueeError
from quee.network.checkpoints.files import parts_of

PREFERRED = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Names under which transformers and timm save a network, in the order in which transformers looks for them."""
ENDS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pth.tar", ".npz", ".th")
BESIDE = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
"""Beginnings of the names of other files that training writes."""


def weights_in(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The file of weights in a folder, and facts about what beside it is not read.

    Raises QueeError where there is none, or several that are not one network in two forms, and IntegrityError for a link
    to nothing.
    """
    found = sorted(path.name for path in folder.iterdir() if path.name.endswith((*ENDS, ".index.json")))
    names = [name for name in found if not name.startswith(BESIDE)]
    for name in names:
        if not (folder / name).exists():
            raise IntegrityError(f"{folder / name} is a link to a file that is not there: {(folder / name).readlink()}")
    parts = {part for name in names if name.endswith(".index.json") for part in parts_of(folder / name).values()}
    usual = [name for name in PREFERRED if name in names]
    alone = [name for name in names if name not in PREFERRED and name not in parts]
    if alone and (usual or len(alone) > 1):
        raise QueeError(f"{folder} holds several checkpoints: {', '.join([*usual, *alone][:5])}; give the file of one")
    if {"model.safetensors.index.json", "model.safetensors"} <= {*usual}:
        raise QueeError(
            f"{folder} holds two checkpoints: model.safetensors and the parts that {usual[0]} names; give one"
        )
    if not names:
        below = sorted(path.parent.name for path in folder.glob("*/*") if path.name in PREFERRED)
        more = f"; give the folder of one network: {', '.join(below[:5])}" if below else ""
        raise QueeError(f"{folder} is a folder without weights{more}")
    chosen, *others = [*usual, *alone]
    return folder / chosen, (f"of {chosen}" + (f", not of {', '.join(others)}" if others else ""),)
