"""Several threads at once."""

import threading
from collections.abc import Callable


def at_once(caller: Callable[[int], None], number: int) -> None:
    """Call `caller(0)` … `caller(number - 1)`, each in a thread; wait for all, and raise the error of a failed call."""
    failed: list[BaseException] = []

    def called(own: int) -> None:
        try:
            caller(own)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=called, args=(own,)) for own in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
