"""Which families of timm run: of each of timm's modules the network whose name sounds smallest.

    python benchmarks/families.py [--compare] [MODULE …]

Prints the rows of the table in docs/timm.md, without values and so in little memory. `--compare` makes each network with random
weights, and compares its logits with those of timm's own.
"""

import argparse
import re
import warnings

import timm
import torch

from quee.errors import UsageError
from quee.network.architectures.timm_chain import create, takes_size

SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxtiny",
    "micro",
    "mini",
    "tiny",
    "xxs",
    "_xs",
    "small",
    "_s_",
    "_s",
    "_t",
)
LARGE = ("large", "huge", "giant", "base", "xlarge")
CLASSES = 10


def modules() -> list[str]:
    """timm's modules that have classifiers."""
    return sorted({timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in timm.list_models()})


def smallest(module: str) -> str:
    """The name in a module that sounds smallest."""

    def size(name: str) -> tuple[bool, int, list[int], str]:
        rank = next((rank for rank, word in enumerate(SMALL) if word in name), len(SMALL))
        return any(word in name for word in LARGE), rank, [int(number) for number in re.findall(r"\d+", name)], name

    return min(timm.list_models(module=module), key=size)


def tried(name: str) -> str:
    """What becomes of a network: its blocks, or the reason why it does not run."""
    try:
        with torch.device("meta"):
            backbone = create(name, num_classes=CLASSES)
    except UsageError as error:
        return f"no: {error}"
    return f"{len(backbone.block_names)} blocks"


def distance(name: str) -> float:
    """The largest difference between a network's logits and those of timm's own, relative to the largest logit."""
    torch.manual_seed(0)
    backbone = create(name, num_classes=CLASSES).eval()
    for parameter in backbone.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    x = torch.randn(1, *backbone.input.shape)
    size = {"img_size": backbone.input.size} if takes_size(name) else {}
    original = timm.create_model(name, num_classes=CLASSES, **size).eval()
    original.load_state_dict(backbone.state_dict())
    with torch.inference_mode():
        wanted = original(x)
        return float((backbone(x) - wanted).abs().max() / wanted.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for module in options.modules or modules():
        name = smallest(module)
        said = tried(name)
        if options.compare and not said.startswith("no"):
            said += f", {distance(name):.0e} from timm's logits"
        print(f"| `{module}` | `{name}` | {said} |", flush=True)


if __name__ == "__main__":
    main()
