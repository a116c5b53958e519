"""torchvision's EfficientNet, versions 1 and 2, and MobileNetV3: blocks of inverted bottlenecks."""

import re
from collections.abc import Iterable, Mapping

from quee.errors import QueeError
from quee.network.checkpoints.layout import Layout, Named, State, count
from quee.network.checkpoints.layouts.sizes import depths
from quee.network.checkpoints.layouts.torchvision_vit import NOTE

NETWORKS = {
    "efficientnet_b0": ((1, 2, 2, 3, 3, 4, 1), 1280),
    "efficientnet_b1": ((2, 3, 3, 4, 4, 5, 2), 1280),
    "efficientnet_b2": ((2, 3, 3, 4, 4, 5, 2), 1408),
    "efficientnet_b3": ((2, 3, 3, 5, 5, 6, 2), 1536),
    "efficientnet_b4": ((2, 4, 4, 6, 6, 8, 2), 1792),
    "efficientnet_b5": ((3, 5, 5, 7, 7, 9, 3), 2048),
    "efficientnet_b6": ((3, 6, 6, 8, 8, 11, 3), 2304),
    "efficientnet_b7": ((4, 7, 7, 10, 10, 13, 4), 2560),
    "efficientnetv2_s": ((2, 4, 4, 6, 9, 15), 1280),
    "efficientnetv2_m": ((3, 5, 5, 7, 14, 18, 5), 1280),
    "efficientnetv2_l": ((4, 7, 7, 10, 19, 25, 7), 1280),
    "mobilenetv3_large_100": ((1, 2, 3, 4, 2, 3, 1), 1280),
    "mobilenetv3_small_100": ((1, 2, 3, 2, 3, 1), 1024),
}
"""Blocks in the stages, and channels before the classifier."""
USUAL_EPS = tuple(f"efficientnet_b{number}" for number in range(5))
WIDE_EPS = 1e-3
"""ε of BatchNorm in all networks but these, which shapes of weights do not tell."""
PARTS = {
    (False, True, False): (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    (True, False): (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    (False, False): (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    (False,): (("conv", "bn1"),),
}
"""timm's names of the convolutions of a block, and of their norms, by whether each is depthwise."""


def efficientnet(state: State) -> State:
    places = {tuple(key.split(".")[1:3]) for key in state if re.match(r"features\.\d+\.\d+\.block\.", key)}
    blocks = {f"features.{stage}.{place}": f"blocks.{int(stage) - 1}.{place}" for stage, place in places}
    last = _last(state)
    behind = ((f"features.{last}.0.", "conv_head."), (f"features.{last}.1.", "bn2."), ("classifier.1.", "classifier."))
    return _converted(state, blocks, behind)


def mobilenet(state: State) -> State:
    """A stage begins where the number of channels changes; timm's last stage is torchvision's last convolution."""
    last = _last(state)
    blocks: dict[str, str] = {}
    stage, place, width = -1, 0, 0
    for number in range(1, last):
        parts = count(state, rf"features\.{number}\.block\.(\d+)\.")
        key = f"features.{number}.block.{parts - 1}.0.weight"
        if key not in state:
            raise QueeError(f"{key} is missing")
        stage, place = (stage, place + 1) if len(state[key]) == width else (stage + 1, 0)
        width = len(state[key])
        blocks[f"features.{number}"] = f"blocks.{stage}.{place}"
    behind = (
        (f"features.{last}.0.", f"blocks.{stage + 1}.0.conv."),
        (f"features.{last}.1.", f"blocks.{stage + 1}.0.bn1."),
        ("classifier.0.", "conv_head."),
        ("classifier.3.", "classifier."),
    )
    found = _converted(state, blocks, behind)
    if "conv_head.weight" in found:  # a linear layer there, a convolution of one place here
        found["conv_head.weight"] = found["conv_head.weight"][:, :, None, None]
    return found


def _last(state: State) -> int:
    return max(int(match[1]) for key in state if (match := re.match(r"features\.(\d+)\.", key)))


def _converted(state: State, blocks: Mapping[str, str], behind: Iterable[tuple[str, str]]) -> State:
    """timm's names; `blocks` are torchvision's names of blocks with timm's, `behind` those of what comes after them."""
    ends = (("features.0.0.", "conv_stem."), ("features.0.1.", "bn1."), *behind)
    found: State = {}
    inside: dict[str, State] = {old: {} for old in blocks}
    for key, value in state.items():
        block, within, part = key.partition(".block.")
        if within and block in blocks:
            inside[block][part] = value
            continue
        name = next((new + key.removeprefix(old) for old, new in ends if key.startswith(old)), "")
        if not name:
            raise QueeError(f"{key} is in no network that is run here")
        found[name] = value
    for old, own in inside.items():
        found |= _block(own, blocks[old])
    return found


def _block(own: State, name: str) -> State:
    """A block's weights under timm's names, from torchvision's numbers of its parts."""
    numbers = sorted({int(key.partition(".")[0]) for key in own})
    convolutions = [number for number in numbers if f"{number}.0.weight" in own]
    depthwise = tuple(own[f"{number}.0.weight"].shape[1] == 1 for number in convolutions)
    if depthwise not in PARTS:
        raise QueeError(f"{name} has {len(convolutions)} convolutions in an order that no block here has")
    names: dict[str, str] = {}
    for number, parts in zip(convolutions, PARTS[depthwise], strict=True):
        names |= {f"{number}.{place}": part for place, part in enumerate(parts)}
    for number in numbers:
        names |= {f"{number}.fc1": "se.conv_reduce", f"{number}.fc2": "se.conv_expand"}
    found: State = {}
    for key, value in own.items():
        part, _, kind = key.rpartition(".")
        if part not in names:
            raise QueeError(f"{name}: {key} is in no block that is run here")
        found[f"{name}.{names[part]}.{kind}"] = value
    return found


def named(state: State) -> Named | None:
    """The network whose stages have as many blocks, and whose classifier reads as many channels; None for others."""
    head = state.get("conv_head.weight")
    stages = depths(state, "blocks.{}", range(count(state, r"blocks\.(\d+)\.")))
    own = (stages, 0 if head is None else len(head))
    name = next((name for name, said in NETWORKS.items() if said == own), None)
    return None if name is None else Named(name, {} if name in USUAL_EPS else {"bn_eps": WIDE_EPS})


EFFICIENTNET = Layout(
    "torchvision's EfficientNet", r"features\.1\.0\.block\.0\.0\.weight", efficientnet, named=named, note=NOTE
)
MOBILENET = Layout("torchvision's MobileNetV3", r"features\.1\.block\.0\.0\.weight", mobilenet, named=named, note=NOTE)
