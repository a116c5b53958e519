"""Images in NumPy files, `.npy` arrays and `.npz` archives; nothing is unpickled."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from quee.errors import UsageError
from quee.runtime.pixels import check_form

SUFFIXES = (".npy", ".npz")
MEMBER = "images"
"""Name of the array to take from an archive of several."""


class ArrayFile:
    """The images of a file, by row; a `.npy` file is mapped into memory instead of read whole."""

    def __init__(self, path: Path, pixels: str = "uint8") -> None:
        """Raises UsageError unless the file is an array of images that `quee.runtime.pixels` accepts."""
        self.path = path
        self.images = _array(path)
        check_form(self.images, str(path), pixels=pixels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.images[row]


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = found.files
            if len(names) != 1 and MEMBER not in names:
                raise UsageError(f"{path}: arrays {', '.join(names) or 'none'}; give one alone, or name it {MEMBER!r}")
            return np.asarray(found[names[0] if len(names) == 1 else MEMBER])
    except UsageError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile, KeyError) as error:
        raise UsageError(f"{path}: no array that can be read ({' '.join(str(error).split())[:160]})") from None
