"""Bundles in MLflow's model registry, as models from code. Part of tasks/tracking.py; the caller holds its lock."""

import re
import shutil
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from tasks._tracking_index import BUNDLE, DIGEST
from tasks._tracking_lock import StageResult
from tasks.tracking import model_name

CHAMPION = "champion"
"""Alias of the version to use: the newest."""

DESCRIPTION = 5000
"""Characters that the registry keeps of a model card."""


def register_bundle(
    client: MlflowClient, root: Path, bundle: StageResult, run_id: str, experiment_id: str, pyfunc: Path
) -> str:
    """Add a bundle as a new version of `quee-EXPERIMENT` and call it champion; `quee-digits version 1`."""
    name, digest = model_name(bundle.experiment), bundle.outs[bundle.folder]
    folder = root / bundle.folder
    tags = {BUNDLE: digest, DIGEST: bundle.digest, "quee.experiment": bundle.experiment}
    for stale in client.search_logged_models([experiment_id], f"tags.`{BUNDLE}` = '{digest}'"):
        client.delete_logged_model(stale.model_id)
    model = client.create_logged_model(experiment_id, name, run_id, tags=tags, model_type="bundle")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    with tempfile.TemporaryDirectory() as aside:
        saved = Path(aside) / "model"
        save_bundle_model(saved, folder, root / pyfunc, Model(run_id=run_id, model_id=model.model_id), root / "quee")
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    try:
        client.create_registered_model(name, tags={"quee.experiment": bundle.experiment})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, f"models:/{model.model_id}", run_id, tags, description=model_card(folder), model_id=model.model_id
    )
    client.set_registered_model_alias(name, CHAMPION, made.version)
    return f"{name} version {made.version}"


def save_bundle_model(path: Path, bundle: Path, script: Path, model: Model, package: Path) -> None:
    """Write the MLflow model: the script as the model, the bundle as its data, the package as its code."""
    with tempfile.TemporaryDirectory() as aside:
        code = Path(aside) / package.name
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # asks for type hints and an example; the signature is given
            save_model(
                path=path,
                mlflow_model=model,
                python_model=str(script),
                artifacts={"bundle": str(bundle)},
                code_paths=[str(code)],
                signature=signature(),
                pip_requirements=requirements(),
            )


def signature() -> ModelSignature:
    """Images in (N, height, width, channels; 0–255), one row per image out; budget or trade-off as parameters."""
    import numpy as np

    answer: list[ColSpec | TensorSpec] = [
        ColSpec("long", "prediction"),
        ColSpec("string", "label"),
        ColSpec("string", "path", required=False),
        ColSpec("double", "cost"),
    ]
    options = [
        ParamSpec("budget", "double", None),  # the bundle's own, unless there is a trade-off
        ParamSpec("trade_off", "double", None),
        ParamSpec("return_path", "boolean", True),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, -1))]),
        outputs=Schema(answer),
        params=ParamSchema(options),
    )


def requirements() -> list[str]:
    """What the library needs to run, at the versions installed here, and MLflow itself."""
    try:
        needed = [entry for entry in requires("quee") or [] if "extra ==" not in entry]
    except PackageNotFoundError:
        needed = [
            "numpy",
            "pillow",
            "pyarrow",
            "pydantic",
            "pyyaml",
            "rich",
            "safetensors",
            "timm",
            "torch",
            "torchvision",
        ]
    names = sorted({re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in needed} | {"mlflow"})
    return [f"{name}=={version(name)}" for name in names]


def model_card(bundle: Path) -> str | None:
    """The bundle's model card, as far as the registry takes it."""
    for name in ("README.md", "model_card.md", "MODEL_CARD.md"):
        if (bundle / name).is_file():
            return (bundle / name).read_text(encoding="utf-8")[:DESCRIPTION]
    return None
