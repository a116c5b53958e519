"""What decides how fast a bundle runs, and by which kernels: the CPU, the threads, the versions."""

import platform
from hashlib import sha256
from pathlib import Path


def cpu_model() -> str:
    """The CPU's name and its instruction sets' digest, on which the choice of kernels depends."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if line.count(":"))
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    sets = sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:8]
    return f"{fields.get('model name', platform.machine())} {sets}"
