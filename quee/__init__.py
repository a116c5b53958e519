"""quee: learned routing over quantization and early exits for pretrained image classifiers."""

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "create_backbone": "quee.network.architectures",
    "quantize_": "quee.quantization.calibration",
    "QuantizationConfig": "quee.settings.quantize",
    "with_mixed_bits": "quee.quantization.mixed",
    "Precision": "quee.precision",
    "PathTree": "quee.paths",
    "fit": "quee.api",
    "load_bundle": "quee.runtime",
    "AdaptiveClassifier": "quee.runtime",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    """Import public names when first used: `import quee` alone takes milliseconds."""
    if name not in _LAZY:
        raise AttributeError(f"module 'quee' has no attribute {name!r}; public: {', '.join(__all__)}")
    from importlib import import_module

    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        from quee.work.extras import missing_extra

        raise missing_extra(error, f"quee.{name}") or error from None
