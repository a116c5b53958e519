"""The networks of a bundle in PyTorch, which engine torch executes; other engines execute the exported graphs alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quee.errors import IntegrityError, UsageError
from quee.exits.heads import ExitHeads, sizes
from quee.features import GateView
from quee.network.architectures import outside_files
from quee.network.base import SegmentedBackbone
from quee.network.files import load_precisions
from quee.paths import PathTree
from quee.precision import Precision
from quee.runtime.manifest import NAME, Manifest, require_fit
from quee.work.io import read_json


def load_view(folder: Path, precisions: Sequence[str], embedding: bool) -> GateView:
    """The networks and exit heads of a bundle's folder. Raises IntegrityError where a network would read other files."""
    kwargs = read_json(folder / "backbone.json")["kwargs"]
    if outside := outside_files(kwargs):
        raise IntegrityError(f"{folder / 'backbone.json'}: {outside[0]!r} is not allowed: bundles read no other files")
    backbone = load_precisions(folder, folder, map(Precision, precisions))
    return GateView(backbone, ExitHeads.load(folder / "heads.safetensors", backbone.first), embedding)


def checked_view(folder: Path, manifest: Manifest, tree: PathTree, description: dict[str, Any]) -> GateView:
    """`load_view` of a bundle; raises IntegrityError where networks and heads do not fit its description."""
    view = load_view(folder, description["precisions"], manifest.embedding)
    backbone, heads, where = view.backbone, view.heads, folder / "heads.safetensors"
    model = backbone.models[Precision("fp32")]
    require_fit(
        backbone.segments == tree.segments, folder / "tree.json", f"the backbone has {backbone.segments} segments"
    )
    require_fit(
        len(manifest.classes) == backbone.classes, folder / NAME, f"the backbone has {backbone.classes} classes"
    )
    require_fit(len(heads.heads) == tree.segments, where, f"heads for {len(heads.heads)} gates of {tree.segments}")
    for gate, head in enumerate(heads.heads, 1):
        last = gate == tree.segments
        require_fit((not head.classifiers) == last, where, f"gate {gate} has a head too many or few")
        wanted = (0, 0) if last else (_pooled_width(model, gate, head.pooling, where), backbone.classes)
        for classifier in head.classifiers.values():
            for layers in (classifier.floating, classifier.quantized):
                found = sizes(layers)
                require_fit((found[0], found[-1]) == wanted, where, f"gate {gate}: {found} instead of {wanted}")
        plain = (heads.embedding, _pooled_width(model, gate, model.global_pooling, where))
        shape = None if head.projection is None else tuple(head.projection.weight.shape)
        require_fit(shape in (None, plain), where, f"gate {gate}: {shape} instead of {plain}")
        require_fit((shape is None) == (not heads.embedding), where, f"gate {gate}: embedding missing or left over")
    known = description["feature_names"] == view.names
    require_fit(known, folder / "tree.json", "its features are not those of the heads")
    if manifest.preprocessing is not None:
        require_fit(manifest.preprocessing == model.input, folder / NAME, "preprocessing is not the backbone's")
    return view


def _pooled_width(model: SegmentedBackbone, gate: int, pooling: str, where: Path) -> int:
    """Length of a pooled state at a gate; raises IntegrityError for a pooling that the backbone does not have."""
    try:
        return model.pooled_width(gate, pooling)
    except UsageError as error:
        raise IntegrityError(f"{where}: {error}") from None
