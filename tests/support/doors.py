"""Every entry point of a classifier for images, as functions of an array and its kind of pixels to labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from endpoint import Endpoint

import quee
from quee.cli.predict import predict as predict_command
from quee.errors import QueeError
from quee.runtime import AdaptiveClassifier, Options
from quee.runtime.scheduler import Scheduler

Door = Callable[[np.ndarray, str], list[int]]
DATATYPES = {
    "|u1": "UINT8",
    "<f2": "FP16",
    "<f4": "FP32",
    "<f8": "FP64",
    "<u2": "UINT16",
    "<i8": "INT64",
    "|b1": "BOOL",
}


class RefusedError(Exception):
    """A door refused the images; the message is the door's own."""


def refusing(door: Door, *errors: type[Exception]) -> Door:
    """The door with its own errors turned into RefusedError; any other error fails the test."""

    def through(images: np.ndarray, pixels: str) -> list[int]:
        try:
            return door(images, pixels)
        except errors as error:
            raise RefusedError(str(error)) from error

    return through


def python_doors(classifier: AdaptiveClassifier, backbone: Any, folder: Path) -> dict[str, Door]:
    """Methods of the classifier, the scheduler, `quee.fit`, and `quee predict` with NumPy files."""

    def scheduled(images: np.ndarray, pixels: str) -> list[int]:
        with Scheduler(classifier) as scheduler:
            return scheduler.submit(images, Options(), pixels=pixels).result(60).label.tolist()

    def fitted(images: np.ndarray, pixels: str) -> list[int]:
        """`quee.fit` checks pixels before it counts images: accepted pixels are refused here for being too few images."""
        try:
            quee.fit(backbone, images, np.arange(len(images)), folder / "fitted", pixels=pixels)
        except QueeError as error:
            if "give at least" not in str(error):
                raise
        return classifier.predict(images, pixels=pixels).tolist()

    def listed(images: np.ndarray, pixels: str) -> list[int]:
        return classifier.predict(list(images), pixels=pixels).tolist()

    doors: dict[str, Door] = {
        "predict": lambda images, pixels: classifier.predict(images, pixels=pixels).tolist(),
        "predict_proba": lambda i, p: classifier.predict_proba(i, pixels=p).argmax(axis=1).tolist(),
        "route": lambda images, pixels: classifier.route(images, pixels=pixels).label.tolist(),
        "explain": lambda i, p: [e.label for e in classifier.explain(i, pixels=p)],
        "a list": listed,
        "the scheduler": scheduled,
        "quee.fit": fitted,
    }
    return {name: refusing(door, QueeError) for name, door in doors.items()}


def command_doors(bundle: Path, folder: Path) -> dict[str, Door]:
    """`quee predict` on a `.npy` and a `.npz`."""

    def of(suffix: str) -> Door:
        def through(images: np.ndarray, pixels: str) -> list[int]:
            source, out = folder / f"images{suffix}", folder / f"out{suffix}.parquet"
            (np.save if suffix == ".npy" else np.savez)(source, images)
            predict_command(bundle, [source], pixels=pixels, out=out, engine="torch")
            import pyarrow.parquet as pq

            return pq.read_table(out)["label"].to_pylist()

        return refusing(through, QueeError)

    return {f"quee predict {suffix}": of(suffix) for suffix in (".npy", ".npz")}


def endpoint_doors(endpoint: Endpoint) -> dict[str, Door]:
    """`quee serve`: tensors as JSON and in binary."""
    path = f"/v2/models/{endpoint.service.current.name}/infer"

    def labels(status: int, answer: Any) -> list[int]:
        if status != 200:
            assert status in (400, 413), answer
            raise RefusedError(answer["error"])
        return next(output["data"] for output in answer["outputs"] if output["name"] == "label")

    def head(images: np.ndarray, pixels: str, **more: Any) -> dict[str, Any]:
        kind = DATATYPES.get(images.dtype.newbyteorder("<").str, "BYTES")
        if images.dtype.kind in "iu" and not {"data"} - set(more):
            kind = "UINT8"  # JSON has no other whole numbers
        tensor = {"name": "images", "datatype": kind, "shape": list(images.shape), **more}
        return {"inputs": [tensor], "parameters": {"pixels": pixels}}

    def as_json(images: np.ndarray, pixels: str) -> list[int]:
        return labels(*endpoint.post(path, head(images, pixels, data=images.tolist())))

    def as_binary(images: np.ndarray, pixels: str) -> list[int]:
        data = images.astype(images.dtype.newbyteorder("<")).tobytes() if images.dtype != object else b""
        text = json.dumps(head(images, pixels, parameters={"binary_data_size": len(data)})).encode()
        headers = {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
        return labels(*endpoint.post(path, text + data, headers))

    return {"quee serve, JSON": as_json, "quee serve, binary": as_binary}


def pyfunc_doors(model: Any) -> dict[str, Door]:
    """MLflow's model called from Python, and through the functions of its scoring server."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    def direct(images: np.ndarray, pixels: str) -> list[int]:
        return model.predict(images, params={"pixels": pixels})["label"].tolist()

    def of(key: str) -> Door:
        def through(images: np.ndarray, pixels: str) -> list[int]:
            body = json.dumps({key: images.tolist(), "params": {"pixels": pixels}})
            answer = invocations(body, "application/json", model, model.metadata.get_input_schema())
            assert answer.status == 200
            return [row["label"] for row in json.loads(answer.response)["predictions"]]

        return through

    doors = {"pyfunc": direct, "scoring, inputs": of("inputs"), "scoring, instances": of("instances")}
    return {name: refusing(door, MlflowException) for name, door in doors.items()}
