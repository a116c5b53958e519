"""The work of shards in tests; worker processes import it by name."""

import os
import signal
import time
from pathlib import Path


def square(log: str, number: int) -> bytes:
    with open(log, "a") as file:
        file.write(f"{number}\n")
    return b"%d" % number**2


def die_once(log: str, number: int) -> bytes:
    """The first process to compute number 3 is killed, as by the kernel when memory runs out."""
    if number == 3 and not os.path.exists(f"{log}.died"):
        Path(f"{log}.died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(log, number)


def die(log: str, number: int) -> bytes:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(log, number)


def wait(folder: str, number: int) -> bytes:
    """Write this process's id into `folder`, then compute for ten minutes."""
    Path(folder, f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return b"%d" % number


def seen_gpu(folder: Path) -> str | None:
    """The GPU of this process, once two processes are here."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return os.environ.get("CUDA_VISIBLE_DEVICES")
