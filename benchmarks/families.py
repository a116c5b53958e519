"""Which families of timm run: of each of timm's modules one small network, cut and compared with timm's own logits.

    python -m benchmarks.families [MODULE …]

Prints the rows of the table in docs/timm.md. Weights are random. `exact` compares the logits of the cut network with timm's.
"""

import re
import sys
import warnings

import timm
import torch

from quee.errors import UsageError
from quee.network.timm_chain import create, takes_size

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
    """What became of a network: its blocks and its distance from timm's logits, or the reason why it does not run."""
    torch.manual_seed(0)
    try:
        backbone = create(name, num_classes=CLASSES).eval()
    except UsageError as error:
        return f"no: {error}"
    for parameter in backbone.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    x = torch.randn(1, *backbone.input.shape)
    size = {"img_size": backbone.input.size} if takes_size(name) else {}
    with torch.inference_mode():
        found = backbone(x)
        original = timm.create_model(name, num_classes=CLASSES, **size).eval()
        original.load_state_dict(backbone.state_dict())
        wanted = original(x)
    error = float((found - wanted).abs().max() / wanted.abs().max())
    return f"{len(backbone.block_names)} blocks, {error:.0e} from timm's logits"


def main() -> None:
    warnings.simplefilter("ignore")
    for module in sys.argv[1:] or modules():
        name = smallest(module)
        print(f"| `{module}` | `{name}` | {tried(name)} |", flush=True)


if __name__ == "__main__":
    main()
