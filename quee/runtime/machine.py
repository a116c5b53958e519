"""The machine, which decides how fast a bundle runs and with which kernels."""

import platform
from hashlib import sha256
from pathlib import Path


def cpu_model() -> str:
    """The CPU's name and a digest of its instruction sets; the choice of kernels depends on both."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if line.count(":"))
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    sets = sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:8]
    return f"{fields.get('model name', platform.machine())} {sets}"
