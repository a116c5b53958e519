"""Run `quee` as where only an engine and `quee serve` are installed: python without_extras.py COMMAND …

Modules of other extras cannot be found. `explain BUNDLE` uses the Python API.
"""

import sys
from typing import Any

REFUSED = {
    "dvc", "filelock", "fsspec", "matplotlib", "mlflow", "pandas", "prefect", "pyarrow", "ruamel", "scipy", "sklearn",
    "threadpoolctl", "timm", "torch", "torchvision", "yaml",
}  # fmt: skip


class Without:
    """A finder of modules that does not find the refused ones."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in REFUSED else self.finder.find_spec(name, path, target)


def explain(bundle: str) -> None:
    import numpy as np

    import quee

    classifier = quee.load_bundle(bundle)
    images = np.random.default_rng(0).integers(256, size=(3, 8, 8), dtype=np.uint8)
    for found in classifier.explain(images, budget=0.3):
        print(found.label, found.path, *(f"{name}={cost:.1f}" for name, cost in found.static.items()))
    for name in ("fit", "quantize_"):
        try:
            getattr(quee, name)
        except Exception as error:
            print(type(error).__name__, error)


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    if sys.argv[1] == "explain":
        explain(sys.argv[2])
    else:
        from quee.cli.main import main

        main(sys.argv[1:])
    assert not REFUSED & {name.partition(".")[0] for name in sys.modules}
