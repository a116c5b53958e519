"""Facts of the machine, which decides speed and kernels of a bundle."""

import platform
from hashlib import sha256
from pathlib import Path

INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """The CPU's name from the system."""
    return _fields().get("model name") or platform.processor() or platform.machine()


def cpu_model() -> str:
    """The CPU's name and a digest of its instruction sets; the choice of kernels depends on both."""
    if not (fields := _fields()):
        return cpu_name()
    sets = sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:8]
    return f"{cpu_name()} {sets}"


def _fields() -> dict[str, str]:
    try:
        lines = [line.split(":", 1) for line in INFO.read_text().splitlines() if ":" in line]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, value in lines}
