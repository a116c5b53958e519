"""The one way to write and read JSON, Parquet and safetensors: deterministic bytes, whole files or none.

NumPy, safetensors and pyarrow are imported where they are used: verbs that read JSON alone start without them.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from quee.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT = 1
"""Format number of every file written; readers refuse a newer one."""
VERIFIED = Path(".quee") / "verified"
"""Folder with the digests of large files, one file per digest."""
REMEMBERED_BYTES = 8 << 20
"""Files below this size are read each time, which takes milliseconds."""
SETTLED_NANOSECONDS = 2_000_000_000
"""Coarsest resolution of file times."""


def refuse_unwritable(file: Path) -> None:
    """Raises UsageError where a file cannot be written, before what it is to hold is computed."""
    folder = file.parent
    why = ""
    if file.is_dir():
        why = "it is a folder"
    elif file.exists() and not file.is_file():
        why = "it is no plain file"
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
    else:
        try:  # tried, because permissions alone do not tell: a file system may be read-only
            TemporaryFile(dir=folder).close()
        except OSError as error:
            why = f"the folder {folder} takes no new file ({error.strerror})"
    if why:
        raise UsageError(f"cannot write {file}: {why}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` when the block ends without error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def json_bytes(value: Any) -> bytes:
    """The form of JSON in files: sorted keys, a final newline, floats at their shortest exact form; refuses NaN."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    return (text + "\n").encode()


def canonical(value: Any) -> bytes:
    """The form of JSON for digests: sorted keys, one line, no spaces. Names of files need not be UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return text.encode(errors="surrogateescape")


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def read_json(path: Path) -> Any:
    """Raises IntegrityError when the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IntegrityError(f"missing file: {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise IntegrityError(f"not a JSON file: {path} ({error})") from None


def write_table(path: Path, table: "pa.Table", row_group_size: int = 1 << 16) -> None:
    """Parquet whose bytes depend on the rows alone: fixed writer options, no timestamps."""
    with atomic_path(path) as aside, table_writer(aside, table.schema) as writer:
        writer.write_table(table, row_group_size=row_group_size)


def table_writer(where: "Path | pa.NativeFile", schema: "pa.Schema") -> "pq.ParquetWriter":
    import pyarrow.parquet as pq  # Parquet is an extra

    schema = schema.with_metadata({"format": str(FORMAT)})
    return pq.ParquetWriter(where, schema, compression="zstd", compression_level=3, store_schema=True)


def read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """Raises IntegrityError when the file is missing, truncated, of a newer format or without one of the columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise IntegrityError(f"missing file: {path}")
    try:
        # `pq.read_table` reads the same through `pyarrow.dataset`, whose import costs a third of a second
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read(columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(f"not a readable Parquet file: {path} ({error})") from None
    written = int((table.schema.metadata or {}).get(b"format", b"0"))
    if written > FORMAT:
        raise IntegrityError(f"{path} has format {written}; this version reads up to {FORMAT}")
    if lacking := sorted(set(columns or ()) - set(table.column_names)):
        raise IntegrityError(f"{path} has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}")
    return table


def count_rows(path: Path) -> int:
    """Number of rows of a Parquet file, from its metadata alone; raises IntegrityError where it is missing or truncated."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise IntegrityError(f"missing file: {path}")
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(f"not a readable Parquet file: {path} ({error})") from None


def write_tensors(path: Path, tensors: "dict[str, np.ndarray]", metadata: dict[str, str] | None = None) -> None:
    write_bytes(path, packed_tensors(tensors, metadata))


def packed_tensors(tensors: "dict[str, np.ndarray]", metadata: dict[str, str] | None = None) -> bytes:
    """Safetensors with sorted names; `metadata` values are strings."""
    import numpy as np
    from safetensors.numpy import save

    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    data = save(ordered, metadata={"format": str(FORMAT), **(metadata or {})})
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # safetensors does not fix their order
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_tensors(path: Path) -> "dict[str, np.ndarray]":
    """Raises IntegrityError when the file is missing, not safetensors or of a newer format."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"missing file: {path}") from None
    return unpacked_tensors(data, str(path))[0]


def unpacked_tensors(data: bytes, source: str) -> "tuple[dict[str, np.ndarray], dict[str, str]]":
    """Tensors and metadata of a safetensors file's bytes; raises IntegrityError naming `source` as `read_tensors` does."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata: dict[str, str] = header.get("__metadata__", {})
        written = int(metadata.get("format", "0"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"not a readable safetensors file: {source} ({error})") from None
    if written > FORMAT:
        raise IntegrityError(f"{source} has format {written}; this version reads up to {FORMAT}")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, from its header alone; raises IntegrityError as `read_tensors` does."""
    with _header(path) as file:
        return file.metadata() or {}


def read_shape(path: Path, name: str) -> tuple[int, ...] | None:
    """Shape of a tensor of a safetensors file, from its header alone, or None; raises IntegrityError as `read_tensors` does."""
    with _header(path) as file:
        names = file.keys()
        return tuple(file.get_slice(name).get_shape()) if name in names else None


def read_tensor(path: Path, name: str) -> "np.ndarray":
    """One tensor of a safetensors file, without reading the others; raises IntegrityError where there is none."""
    with _header(path) as file:
        if name not in file.keys():  # noqa: SIM118 - not a mapping
            raise IntegrityError(f"{path} has no tensor {name!r}")
        found: np.ndarray = file.get_tensor(name)
        return found


@contextmanager
def _header(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise IntegrityError(f"missing file: {path}") from None
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"not a readable safetensors file: {path} ({error})") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in blocks."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise IntegrityError(f"missing file: {path}") from None


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; a machine reads a large file once until the file changes.

    The digest is kept under `.quee/verified` with the file's name, size, times and inode. The digest of a file that changed
    a moment ago is not kept, because another change could leave the same times.
    """
    try:
        state = _state(path)
    except FileNotFoundError:
        raise IntegrityError(f"missing file: {path}") from None
    if state["size"] < REMEMBERED_BYTES:
        return file_digest(path)
    name = os.path.abspath(path)
    note = VERIFIED / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"
    try:
        known = json.loads(note.read_bytes())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no usable digest is kept
    began = time.time_ns()
    found = file_digest(path)
    if _state(path) == state and began - max(state["changed"], state["modified"]) > SETTLED_NANOSECONDS:
        with suppress(OSError):  # without a kept digest the file is read again
            VERIFIED.mkdir(parents=True, exist_ok=True)
            write_json(note, {"file": os.fsencode(name).decode(errors="replace"), "sha256": found, "state": state})
    return found


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"changed": found.st_ctime_ns, "inode": found.st_ino, "modified": found.st_mtime_ns, "size": found.st_size}


def verify_digests(folder: Path, digests: dict[str, str], digest: Callable[[Path], str] = file_digest) -> None:
    """Check named files of a folder against their SHA-256; raises IntegrityError naming the first that differs.

    `digest` finds a file's SHA-256: `file_digest`, or `content_digest` for files too large to be read by every process.
    """
    for name, expected in sorted(digests.items()):
        actual = digest(folder / name)
        if actual != expected:
            raise IntegrityError(f"digest of {folder / name} is {actual[:12]}…, expected {expected[:12]}…")
