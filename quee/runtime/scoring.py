"""Batch scoring: any number of images through a classifier, in bounded memory, to rows or to a Parquet file."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quee.data.decode import ahead
from quee.data.walk import SKIP_HINT, faults_text, shown
from quee.errors import DamagedError, UsageError
from quee.runtime.classifier import AdaptiveClassifier
from quee.runtime.inputs import Inputs
from quee.runtime.operating import Options
from quee.work.extras import require_package
from quee.work.io import atomic_path, refuse_unwritable, table_writer
from quee.work.keys import LIBRARIES, key_of, versions
from quee.work.progress import progress
from quee.work.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = 1024
"""Number of images per stored part, after which scoring can be resumed."""
COLUMNS = {
    "image": "string",
    "label": "int32",
    "class": "string",
    "probability": "float32",
    "path": "string",
    "cost": "float64",
    "budget_met": "bool",
    "error": "string",
}
"""Columns of the answers, with their types in Parquet; `label` is the index of `class`. For a skipped bad image all but `image`
and `error` are null."""

Answers = dict[str, np.ndarray]
"""The columns by name, as plain values: (n,) objects each."""

Prepared = tuple[list[str], np.ndarray | None, np.ndarray, dict[int, str]]
"""Names, prepared good images, their rows, and the faults of the others."""


def score(
    classifier: AdaptiveClassifier,
    inputs: Inputs,
    options: Options,
    start: int = 0,
    stop: int | None = None,
    batch: int = 128,
    skip_bad: bool = False,
) -> Iterator[Answers]:
    """Answers for the images start … stop-1, `batch` at a time; the next batch is decoded meanwhile.

    Raises DamagedError for bad images unless `skip_bad`; it names all bad images of `inputs` from the first one on.
    """
    stop = len(inputs) if stop is None else min(stop, len(inputs))
    parts = [(first, min(first + batch, stop)) for first in range(start, stop, batch)]
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        coming = ahead(pool, lambda part: _prepare(classifier, inputs, *part), parts, 1)
        for (_, last), prepared in zip(parts, coming, strict=True):
            names, _, _, bad = prepared
            if bad and not skip_bad:
                others = _read(classifier, inputs, last, len(inputs))
                faults = [f"{names[row]}: {reason}" for row, reason in bad.items()]
                faults += [f"{name}: {seen}" for name, seen in others if isinstance(seen, str)]
                raise DamagedError(faults_text(faults, f"of {len(inputs):,} images cannot be used", SKIP_HINT))
            yield _answers(classifier, prepared, options)


def _prepare(classifier: AdaptiveClassifier, inputs: Inputs, start: int, stop: int) -> Prepared:
    names: list[str] = []
    parts: list[np.ndarray] = []
    bad: dict[int, str] = {}
    for row, (name, seen) in enumerate(_read(classifier, inputs, start, stop)):
        names.append(name)
        if isinstance(seen, str):
            bad[row] = seen
        else:
            parts.append(seen)
    good = np.array([row for row in range(len(names)) if row not in bad], dtype=np.int64)
    return names, np.concatenate(parts) if parts else None, good, bad


def _read(
    classifier: AdaptiveClassifier, inputs: Inputs, start: int, stop: int
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Names of images, with each prepared image (1, c, h, w) or its fault."""
    for name, image in inputs.read(start, stop):
        try:
            yield name, classifier.prepare([image], inputs.pixels)
        except UsageError as error:
            yield name, shown(str(error)).removeprefix("image 0: ").removeprefix("image 0 ").removeprefix(f"{name}: ")


def _answers(classifier: AdaptiveClassifier, prepared: Prepared, options: Options) -> Answers:
    names, x, good, bad = prepared
    columns = {name: np.full(len(names), None, dtype=object) for name in COLUMNS}
    columns["image"][:] = names
    if x is not None:
        routed = classifier.route_prepared(x, **asdict(options))
        columns["label"][good] = routed.label
        columns["class"][good] = np.array(classifier.classes, dtype=object)[routed.label]
        columns["probability"][good] = routed.probabilities.max(axis=1).astype(np.float32)
        columns["path"][good] = routed.path
        columns["cost"][good] = routed.cost
        columns["budget_met"][good] = routed.budget_met
    for row, reason in bad.items():
        columns["error"][row] = reason
    return columns


def rows_of(answers: Answers) -> list[dict[str, Any]]:
    """One mapping per image, with plain values."""
    return [dict(zip(answers, row, strict=True)) for row in zip(*answers.values(), strict=True)]


def _schema() -> "pa.Schema":
    import pyarrow as pa  # Parquet is an extra

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def _table(answers: Answers) -> "pa.Table":
    import pyarrow as pa

    schema = _schema()
    return pa.table({name: pa.array(answers[name], schema.field(name).type) for name in COLUMNS}, schema=schema)


def score_to_parquet(
    classifier: AdaptiveClassifier,
    inputs: Inputs,
    options: Options,
    out: Path,
    batch: int = 128,
    skip_bad: bool = False,
) -> dict[str, float]:
    """Score all images into one Parquet file, with progress; returns sums (images, skipped, cost).

    Finished parts are kept beside `out`, and the same call continues from them; a call with another bundle, other options
    or other files begins anew. Raises UsageError where `out` cannot be written, QueeError where the extra `parquet` is not
    installed.
    """
    require_package("pyarrow", f"writing {out}", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    refuse_unwritable(out)
    if not _may_become_answers(out):
        raise UsageError(f"cannot write {out}: it is there, and holds something else than answers; give another path")
    store = _store(classifier, inputs, options, out, skip_bad)
    there = store.files()
    starts = {f"{start // SHARD:07d}": start for start in range(0, len(inputs), SHARD)}
    done = sum(min(SHARD, len(inputs) - start) for name, start in starts.items() if name in there)
    sums = {"images": 0.0, "skipped": 0.0, "cost": 0.0}
    with progress("classifying", len(inputs), done) as bar:

        def rows(start: int) -> bytes:
            found, sink = [], pa.BufferOutputStream()
            for answers in score(classifier, inputs, options, start, start + SHARD, batch, skip_bad):
                found.append(_table(answers))
                bar.advance(len(found[-1]))
            with table_writer(sink, schema) as writer:
                writer.write_table(pa.concat_tables(found))
            return sink.getvalue().to_pybytes()

        for name, start in starts.items():
            if name not in there:
                store.write(name, rows(start))
        there = store.files()
        with atomic_path(out) as aside, table_writer(aside, schema) as writer:
            for name, start in starts.items():
                table = pq.read_table(pa.BufferReader(store.kept(name, partial(rows, start), there[name]))).cast(schema)
                writer.write_table(table)
                sums["images"] += len(table)
                sums["skipped"] += table["label"].null_count
                sums["cost"] += float(np.nansum(table["cost"].to_numpy()))
    store.discard()
    return sums


def _may_become_answers(out: Path) -> bool:
    """Whether a file may be replaced: it does not exist, is empty, or has answers of an earlier call."""
    if not out.exists() or not out.stat().st_size:
        return True
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_schema(out).names == [*COLUMNS])
    except (pa.ArrowException, OSError):
        return False


def _store(classifier: AdaptiveClassifier, inputs: Inputs, options: Options, out: Path, skip_bad: bool) -> Store:
    """The store of this call's finished parts; parts of other calls for the same file are removed."""
    own = [
        dict(classifier.description),
        classifier.engine.name,
        asdict(options),
        skip_bad,
        SHARD,
        inputs.identity(),
        COLUMNS,
    ]
    key = key_of(own, versions((*LIBRARIES, "onnxruntime", "openvino")))[:16]
    parts = out.with_name(f".{out.name}.{key}.parts")
    for other in out.parent.glob(f".{out.name}.*.parts"):
        if other != parts:
            shutil.rmtree(other)
    return Store(str(parts.resolve()))
