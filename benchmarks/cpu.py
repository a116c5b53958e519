"""What a CPU has for the number formats of networks. Figures of speed are kept and told by it."""

from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
"""What decides which number format is the fastest, as Linux names it."""


def instructions(file: Path = Path("/proc/cpuinfo")) -> str:
    """Those of `INSTRUCTIONS` that the CPU has, in a line; empty where the system does not say."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return " ".join(name for name in INSTRUCTIONS if name in flags)
