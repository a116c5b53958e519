"""The page at `/`: its files, read once, and what it needs to know of the model."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from quee.serving.examples import read_examples
from quee.serving.refusal import RefusedError
from quee.serving.service import Service

FOLDER = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes(app: FastAPI, service: Service) -> None:
    """Serve the page; raises UsageError when the examples named in the settings are none."""
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
            "budget": classifier.budget,
            "budgets": [points[0].cost, points[-1].cost],
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
