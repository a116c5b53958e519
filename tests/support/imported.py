"""What a command of `quee` imports, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

PROGRAM = """
import json, sys
from quee.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""

HEAVY = (
    "PIL",
    "dvc",
    "matplotlib",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "prefect",
    "pyarrow",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
)
"""Packages that take a tenth of a second and more."""


def without(*needed: str) -> tuple[str, ...]:
    """The heavy packages but those that a verb needs."""
    assert set(needed) <= set(HEAVY)
    return tuple(name for name in HEAVY if name not in needed)


def imported(words: Sequence[str], folder: Path, unused: Collection[str]) -> list[str]:
    """The modules that a command imports in a folder although they are, or lie below, one of those it must not import."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said, _, modules = done.stdout.strip().rpartition("\n")
    found = json.loads(modules)
    assert said and "quee.cli.main" in found
    return [name for name in found if any(f"{name}.".startswith(f"{other}.") for other in unused)]
