"""`quee serve`: a bundle behind HTTP."""

import errno
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from quee.cli import naming
from quee.errors import BusyError, QueeError, UsageError
from quee.serving.settings import MIB, Settings
from quee.work.extras import require_package


def serve(
    bundle: Annotated[
        Path, typer.Argument(help="The bundle's folder, or a link that may later point to another bundle.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need a token.")] = Settings.host,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = Settings.port,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="QUEE_TOKEN", help="Bearer token that callers need. `ps` shows the option, but not the variable."
        ),
    ] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Answer other machines without a token.")] = False,
    name: Annotated[list[str] | None, typer.Option(help="Host name that requests may be for; may be repeated.")] = None,
    cors: Annotated[list[str] | None, typer.Option(help="Origin whose pages may call; may be repeated.")] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 of the bundle.json to expect at the start.")] = None,
    max_body: Annotated[int, typer.Option(help="MiB of a request's body at most.")] = Settings.max_body // MIB,
    max_pixels: Annotated[int, typer.Option(help="Pixels of an image at most.")] = Settings.max_pixels,
    max_images: Annotated[int, typer.Option(help="Images of a request at most.")] = Settings.max_images,
    queue: Annotated[
        int, typer.Option(help="Most images waiting; further callers are told to try again later.")
    ] = Settings.queue,
    batch: Annotated[int, typer.Option(help="Images run together at most.")] = 64,
    deadline: Annotated[float, typer.Option(help="Seconds for an answer.")] = Settings.deadline,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What runs the network: torch, openvino, onnxruntime, auto. By default torch, or auto without PyTorch."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Ceiling of the mean cost for requests that name nothing; the bundle's own by default."),
    ] = None,
    accuracy_loss: Annotated[
        float | None,
        typer.Option(
            "--accuracy-loss",
            metavar="POINTS",
            help="In its place: points of accuracy that they may lose to the float network.",
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option(help="Correct budgets so that the mean cost stays at the budget when inputs drift.")
    ] = Settings.control,
    threads: Annotated[int, typer.Option(help="Threads of the network's products.")] = 1,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="MB",
            help="Most MB of the engine's compiled graphs together. Smaller batches then run padded: slower, with the same "
            "answers. By default 280, or what three sizes of each step need; inf compiles all.",
        ),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Folder of images, or of Parquet files, to try on the page.")
    ] = None,
) -> None:
    """Serve a bundle: Open Inference Protocol v2, images, metrics, a page at /. SIGHUP reloads, SIGTERM ends."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        require_package(package, "`quee serve`", "serve")
    from quee.runtime.engines import default_engine
    from quee.runtime.operating import Options
    from quee.serving.server import server_of
    from quee.serving.service import Service, release, settle

    settings = Settings(
        host=host,
        port=port,
        token=token or None,
        anonymous=anonymous,
        names=tuple(n.lower() for n in name or []),
        cors=tuple(cors or []),
        max_body=max_body * MIB,
        bodies=max(Settings.bodies, max_body * MIB),
        max_pixels=max_pixels,
        max_images=max_images,
        queue=queue,
        deadline=deadline,
        control=control,
        default=Options(budget=budget, accuracy_loss=accuracy_loss),
        examples=examples,
    )
    if threads < 1:
        raise UsageError(f"threads={threads}: give at least 1")
    if memory is not None and not memory > 0:
        raise UsageError(f"memory={memory:g}: give more than 0 MB")
    if (engine := engine or default_engine()) == "torch":
        import torch

        torch.set_num_threads(threads)
    _open_files(settings.connections + 256)
    listener = _listen(host, port)
    with naming(bundle):
        service = Service(bundle, settings, batch, digest, engine, threads, memory)
    server = server_of(service)
    where = f"[{host}]" if ":" in host else host
    served = service.current
    print(f"{served.name} {served.version} on http://{where}:{listener.getsockname()[1]}/", file=sys.stderr, flush=True)
    if not served.classifier.operating(served.default).expected.budget_met:
        what = "budget" if accuracy_loss is None else "accuracy loss"
        print(f"the {what} cannot be met: requests that name none get the nearest point", file=sys.stderr, flush=True)
    os.environ.pop("QUEE_TOKEN", None)
    settle()
    try:
        server.run(sockets=[listener])
    finally:
        release()


def _open_files(wanted: int) -> None:
    """Raise this process's limit of open files to this number, if the system allows it; each connection takes one."""
    if find_spec("resource"):  # not on Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        kind = BusyError if error.errno == errno.EADDRINUSE else QueeError
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise kind(
            f"cannot listen on {host}:{port}: {reason}; choose another with --port, or any that is free with 0"
        ) from None
