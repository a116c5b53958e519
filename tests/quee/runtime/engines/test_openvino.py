"""OpenVINO is imported without its telemetry, which would report every start to its maker."""

import subprocess
import sys

import pytest


def test_importing_openvino_tells_nobody() -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; from quee.runtime.engines.openvino import OpenVinoEngine; OpenVinoEngine.core.func(None); "
        "print(*sorted(name for name in sys.modules if name.startswith('openvino_telemetry.')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.split() == [] and ran.stderr == ""
