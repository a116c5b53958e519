"""The HTTP application: Open Inference Protocol v2, images, metrics, the page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from quee import __version__
from quee.errors import QueeError
from quee.serving import images, protocol, schema, strict_json
from quee.serving.limits import Limits
from quee.serving.page_routes import page_routes
from quee.serving.refusal import RefusedError, answer_refusal, bad
from quee.serving.service import Answer, Service

CONTENT = "text/plain; version=1.0.0; charset=utf-8"


def create_app(service: Service) -> FastAPI:
    """The application of a service. Everything is refused or answered as JSON; errors are `{"error": reason}`."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="quee",
        version=__version__,
        description=schema.DESCRIPTION,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is at /page/docs.html
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=schema.REFUSALS,
    )
    app.add_exception_handler(RefusedError, answer_refusal)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
    _health(app, service)
    _inference(app, service)
    _administration(app, service)
    page_routes(app, service)
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
    def known(name: str, version: str | None) -> None:
        served = service.current
        if name != served.name or (version is not None and version != served.version):
            has = f"{served.name}, version {served.version}"
            raise RefusedError(404, "model", f"no model {name[:80]!r} of version {str(version)[:80]!r}; there is {has}")

    async def infer(request: Request) -> Response:
        known(request.path_params["name"], request.path_params.get("version"))
        async with service.admit() as take:
            body, length = await request.body(), request.headers.get(protocol.HEADER)
            asked = await service.done(lambda: protocol.parse(body, length, service.settings), len(body))
            take(len(asked.images))
            found = await service.route(asked.images, asked.options, asked.timeout, gone=request.receive)
            served = found.served
            text, header = protocol.answer(
                asked, found.routed, served.classifier.classes, served.name, served.version, found.parameters
            )
        if header is None:
            return Response(text, media_type="application/json")
        return Response(text, media_type="application/octet-stream", headers={protocol.HEADER: str(header)})

    async def described(name: str, version: str | None = None) -> dict[str, Any]:
        known(name, version)
        served = service.current
        return protocol.metadata(served.name, served.version, len(served.classifier.classes))

    async def model_ready(name: str, version: str | None = None) -> JSONResponse:
        known(name, version)
        return JSONResponse({"name": name, "ready": service.ready}, 200 if service.ready else 503)

    for path, note in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", " of a version")):
        options: dict[str, Any] = {"tags": ["inference"]}
        app.get(path, summary=f"The model's tensors{note}.", **options)(described)
        app.get(f"{path}/ready", summary=f"Whether the model answers{note}.", **options)(model_ready)
        extra = {**schema.INFER, "parameters": schema.path_parameters(path)}
        app.post(f"{path}/infer", summary=f"Classify{note}.", openapi_extra=extra, **options)(infer)

    @app.post("/v1/classify", tags=["images"], summary="Classify image files.", openapi_extra=schema.CLASSIFY)
    async def classify(request: Request) -> JSONResponse:
        async with service.admit() as take:
            body, kind = await request.body(), request.headers.get("content-type", "")
            found, options, explain = await service.done(lambda: images.parse(body, kind, service.settings), len(body))
            take(len(found))
            answer = await service.route(found, options, explain=explain, gone=request.receive)
            return JSONResponse(_classified(answer))


def _classified(answer: Answer) -> dict[str, Any]:
    routed, served = answer.routed, answer.served
    classes = served.classifier.classes
    results: list[dict[str, Any]] = [
        {
            "label": int(routed.label[row]),
            "class": classes[int(routed.label[row])],
            "probabilities": routed.probabilities[row].tolist(),
            "path": routed.path[row],
            "cost": float(routed.cost[row]),
        }
        for row in range(len(routed.label))
    ]
    for result, explanation in zip(results, answer.explanations or [], strict=False):
        result["gates"] = [asdict(gate) for gate in explanation.gates]
        result["static"] = explanation.static
    return {"model": served.name, **answer.parameters, "results": results}


def _administration(app: FastAPI, service: Service) -> None:
    @app.post("/v1/admin/reload", tags=["administration"], summary="Serve what the bundle's path holds now.",
              openapi_extra=schema.RELOAD)  # fmt: skip
    async def reload(request: Request) -> JSONResponse:
        if service.settings.token is None:
            raise RefusedError(403, "admin", "the server has no token, and takes this from nobody; send it SIGHUP")
        body = await request.body()
        given = strict_json.loads(body) if body else {}
        if not isinstance(given, dict) or set(given) - {"digest"} or not isinstance(given.get("digest", ""), str):
            raise bad('give {"digest": SHA-256 of bundle.json}, or nothing')
        try:
            fresh = await service.reload(given.get("digest"))
        except QueeError as error:
            raise RefusedError(409, "bundle", f"not taken, the old one serves: {error}") from None
        return JSONResponse({"model": fresh.name, "model_digest": fresh.digest})


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": " ".join(str(error).split())[:300]}, 422)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "the server failed on this request"}, 500)
