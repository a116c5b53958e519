"""What decides how fast a bundle runs, and by which kernels: the CPU, the threads, the versions."""

import platform
from hashlib import sha256
from pathlib import Path

INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """The CPU's name as the system has it."""
    return _fields().get("model name") or platform.processor() or platform.machine()


def cpu_model() -> str:
    """The CPU's name and its instruction sets' digest, on which the choice of kernels depends."""
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
