"""Facts of the machine, which decides speed and kernels of a bundle, and of this process."""

import os
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


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _fields() -> dict[str, str]:
    try:
        lines = [line.split(":", 1) for line in INFO.read_text().splitlines() if ":" in line]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, value in lines}
