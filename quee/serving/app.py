"""The HTTP application: Open Inference Protocol v2, images, metrics, the page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from quee import __version__
from quee.errors import QueeError
from quee.serving import classify, protocol
from quee.serving.limits import Limits
from quee.serving.page_routes import page_routes
from quee.serving.requests import REFUSALS, Closed, RefusedError, answer_refusal, read, refuse_query
from quee.serving.service import Service

CONTENT = "text/plain; version=1.0.0; charset=utf-8"
DESCRIPTION = """Classifies images, each by its own path through the network, under a budget chosen per request.

`budget` is a ceiling of the mean cost, `accuracy_loss` the points of accuracy that may be lost to the float network,
`trade_off` the price of a unit of cost, `max_cost` a limit for every image; the unit of cost is the static w8a8
network. Errors are `{"error": "reason"}`. 503 comes with Retry-After."""
EXAMPLE = {
    "parameters": {"budget": 0.2},
    "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 2, 2], "data": [[[0, 255], [255, 0]]]}],
}


class Reload(Closed):
    """SHA-256 of the expected bundle's bundle.json; by default any bundle is loaded."""

    digest: str | None = None


def create_app(service: Service) -> FastAPI:
    """The application of a service. All answers are JSON; errors are `{"error": reason}`."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="quee",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's page loads scripts from other hosts; ours is at /page/docs.html
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=REFUSALS,
    )
    app.add_exception_handler(RefusedError, answer_refusal)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
    _health(app, service)
    _inference(app, service)
    _administration(app, service)
    page_routes(app, service)
    _describe(app, protocol.InferenceRequest, classify.Classify, Reload)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", protocol.HEADER],
        )
    app.add_middleware(Limits, settings=settings, metrics=service.metrics)
    return app


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live", tags=["health"], summary="The process answers.")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"], summary="Requests are welcome; 503 once the server is to end.")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", tags=["health"], summary="For Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT)

    @app.get("/v2", tags=["inference"], summary="The server.")
    async def server() -> dict[str, Any]:
        return {"name": "quee", "version": __version__, "extensions": ["binary_tensor_data"]}


def _inference(app: FastAPI, service: Service) -> None:
    def known(name: str, version: str | None = None) -> None:
        served = service.current
        if name != served.name or (version is not None and version != served.version):
            has = f"{served.name}, version {served.version}"
            asked = f"{name[:80]!r}" if version is None else f"{name[:80]!r} of version {version[:80]!r}"
            raise RefusedError(404, "model", f"no model {asked}; there is {has}")

    async def infer(request: Request) -> Response:
        refuse_query(request, protocol.Parameters)
        known(**request.path_params)  # FastAPI's own parsing takes as long as `protocol.parse`
        async with service.admit() as take:
            body, length = await request.body(), request.headers.get(protocol.HEADER)
            asked, images = await service.done(lambda: protocol.parse(body, length, service.settings), len(body))
            take(len(images))
            found = await service.route(images, asked.said.options, asked.seconds, gone=request.receive)
            served = found.served
            text, header = protocol.answer(
                asked, found.routed, served.classifier.classes, served.name, served.version, found.parameters
            )
        if header is None:
            return Response(text, media_type="application/json")
        return Response(text, media_type="application/octet-stream", headers={protocol.HEADER: str(header)})

    async def described(name: str, version: str | None = None) -> protocol.ModelMetadata:
        known(name, version)
        served = service.current
        return protocol.metadata(served.name, served.version, len(served.classifier.classes))

    async def model_ready(name: str, version: str | None = None) -> JSONResponse:
        known(name, version)
        return JSONResponse({"name": name, "ready": service.ready}, 200 if service.ready else 503)

    extra = _body(protocol.InferenceRequest, "application/json", example=EXAMPLE)
    for path, note in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", " of a version")):
        options: dict[str, Any] = {"tags": ["inference"]}
        app.get(path, summary=f"The model's tensors{note}.", response_model_exclude_none=True, **options)(described)
        app.get(f"{path}/ready", summary=f"Whether the model answers{note}.", **options)(model_ready)
        options |= {"response_model": protocol.InferenceResponse, "openapi_extra": {**extra, "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in ("name", "version") if f"{{{name}}}" in path
        ]}}  # fmt: skip
        app.post(f"{path}/infer", summary=f"Classify{note}.", **options)(infer)

    extra = _body(classify.Classify, "multipart/form-data", "application/json")

    @app.post("/v1/classify", tags=["images"], summary="Classify image files.", openapi_extra=extra)
    async def classified(request: Request) -> JSONResponse:
        refuse_query(request, classify.Classify)
        async with service.admit() as take:
            asked = await classify.asked(request, service)
            take(len(asked.files))
            found = await service.route(asked.files, asked.options, explain=asked.explain, gone=request.receive)
            return JSONResponse(classify.answer(found))


def _administration(app: FastAPI, service: Service) -> None:
    extra = _body(Reload, "application/json", required=False)

    @app.post("/v1/admin/reload", tags=["administration"], summary="Serve what the bundle's path holds now.",
              openapi_extra=extra)  # fmt: skip
    async def reload(request: Request) -> JSONResponse:
        if service.settings.token is None:
            raise RefusedError(403, "admin", "the server has no token, and takes this from nobody; send it SIGHUP")
        given = read(Reload, await request.body() or b"{}")
        try:
            fresh = await service.reload(given.digest)
        except QueeError as error:
            raise RefusedError(409, "bundle", f"not taken, the old one serves: {error}") from None
        return JSONResponse({"model": fresh.name, "model_digest": fresh.digest})


def _body(model: type[BaseModel], *kinds: str, required: bool = True, **more: Any) -> dict[str, Any]:
    """OpenAPI's description of a body that an endpoint reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {kind: {"schema": schema, **more} for kind in kinds}}}


def _describe(app: FastAPI, *models: type[BaseModel]) -> None:
    """Add the models that `_body` names to the OpenAPI description, because FastAPI does not find them."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            pairs = [(model, "validation") for model in models]
            _, found = models_json_schema(pairs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
            written()["components"]["schemas"].update(found["$defs"])
        return written()

    app.openapi = openapi  # type: ignore[method-assign]


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers or {}
    said = {
        404: "no such address: /openapi.json lists them",
        405: f"no such method here; valid: {headers.get('Allow')}",
    }
    return JSONResponse({"error": said.get(error.status_code, str(error.detail))}, error.status_code, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": " ".join(str(error).split())[:300]}, 422)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "the server failed on this request"}, 500)
