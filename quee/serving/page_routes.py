"""The page at `/`: its files and example images, which are read once, and the facts of the model that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from quee.data.columns import IMAGES
from quee.data.decode import FORMATS, open_image
from quee.data.walk import shown, top_files
from quee.errors import QueeError, UsageError
from quee.runtime.operating import Point
from quee.serving.requests import RefusedError
from quee.serving.service import Service

FOLDER = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

MOST = 12
LARGEST = 1 << 20
"""Most bytes of an example image."""


def page_routes(app: FastAPI, service: Service) -> None:
    """Serve the page; raises UsageError where the folder of examples holds no images."""
    files = {file.name: file.read_bytes() for file in sorted(FOLDER.iterdir()) if file.suffix in KINDS}
    examples = read_examples(service.settings.examples)

    def page(name: str) -> Response:
        if name not in files:
            raise RefusedError(404, "page", f"no page {name[:80]!r}")
        return Response(files[name], media_type=KINDS[Path(name).suffix], headers=HEADERS)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return page(name)

    @app.get("/v1/model", tags=["images"], summary="The model: classes, budgets, precisions.")
    async def model() -> dict[str, Any]:
        served = service.current
        classifier = served.classifier
        points = classifier.points
        return {
            "name": served.name,
            "digest": served.digest,
            "classes": classifier.classes,
            "budget": served.default.budget or classifier.budget,
            "budgets": [points[0].cost, points[-1].cost],
            "measure": classifier.measure.name,
            "accuracy_losses": _losses(points),
            "points": [[p.cost, p.accuracy] for p in points],
            "precisions": [str(p) for p in classifier.tree.precisions],
            "segments": classifier.tree.segments,
            "static": classifier.static_costs,
            "examples": [example.name for example in examples],
        }

    @app.get("/v1/examples/{index}", tags=["images"], summary="An image to try.", response_class=Response)
    async def example(index: int) -> Response:
        if not 0 <= index < len(examples):
            raise RefusedError(404, "page", f"no example {index}; there are {len(examples)}")
        return Response(examples[index].data, media_type=examples[index].media_type, headers=HEADERS)


def _losses(points: Sequence[Point]) -> list[float] | None:
    """The range of accuracy losses that can be asked for, from above 0 on; None where the bundle does not know them."""
    limits = [point.accuracy_loss_limit for point in points if point.accuracy_loss_limit is not None]
    return [max(min(limits), 0.05), max(*limits, 0.1)] if limits else None


@dataclass(frozen=True)
class Example:
    name: str
    data: bytes
    media_type: str


def read_examples(folder: Path | None) -> list[Example]:
    """Up to 12 images of as many classes as possible; raises UsageError where there are none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise UsageError(f"--examples {folder}: not a folder")
    files = [file for file in top_files(folder) if file.suffix.lower() == ".parquet"]
    tables = [file for file in files if file.name.startswith("test")] or files
    found = _from_table(tables[0]) if tables else _from_files(folder)
    examples = [made for name, data in found if (made := _example(name, data)) is not None][:MOST]
    if not examples:
        raise UsageError(f"--examples {folder}: no {', '.join(FORMATS)} images and no Parquet files of images")
    return examples


def _from_files(folder: Path) -> list[tuple[str, bytes]]:
    files = [file for file in top_files(folder) if file.stat().st_size <= LARGEST]
    return [(shown(file.stem), file.read_bytes()) for file in files[: 10 * MOST]]


def _from_table(file: Path) -> list[tuple[str, bytes]]:
    from quee.data.rowgroups import reading  # Parquet is an extra

    with reading(file) as opened:
        rows = next(opened.iter_batches(batch_size=500)).to_pylist()
    column = next((name for name in IMAGES if rows and name in rows[0]), None)
    if column is None:
        return []
    labels = [name for name in rows[0] if name != column]
    by_class: dict[object, list[bytes]] = {}
    for row in rows:
        data = row[column]["bytes"]
        if data is not None and len(data) <= LARGEST:
            by_class.setdefault(row[labels[0]] if labels else None, []).append(data)
    ordered = sorted(by_class.items(), key=lambda pair: str(pair[0]))
    taken = [data for rank in range(MOST) for _, own in ordered for data in own[rank : rank + 1]]
    return [(f"example {index}", data) for index, data in enumerate(taken[:MOST], 1)]


def _example(name: str, data: bytes) -> Example | None:
    try:
        return Example(name, data, f"image/{(open_image(data, name).format or 'png').lower()}")
    except QueeError:
        return None
