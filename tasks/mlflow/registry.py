"""Bundles in MLflow's model registry, as models from code."""

import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from quee.measure import ACCURACY, KEY, measure_of
from quee.policies.registry import METHODS
from quee.runtime.engines import installed_engines
from quee.work.counts import counted
from quee.work.extras import distributions
from quee.work.io import read_table
from quee.work.percentages import percent
from tasks.dvc.dependencies import code_root
from tasks.dvc.lock import StageResult, dvc_digest
from tasks.mlflow.describe import comparison_link
from tasks.mlflow.store import BUNDLE, BUNDLE_MODEL, DECIDED, DIGEST, Store, model_name
from tasks.mlflow.values import of_first_seed

CHAMPION = "champion"
"""Alias of the version to use: the first one, until another is better by more than its interval."""

EARLIER = {
    "accuracy": "quee.validation.accuracy",
    "accuracy at least": "quee.validation.low",
    "budget": "quee.validation.budget",
    "quee.data": "quee.validation.data",
}
"""Names that versions of earlier releases have for the tags by which the champion is decided."""

DATA = "quee.data"
"""Tag of a version: digest of the splits of its validation images."""

DESCRIPTION = 5000
"""Longest description that the registry keeps, in characters."""

CARRIED = ("mlflow.source.git.commit", "prefect.flow_run_id")
"""Tags that a version copies from its bundle's run."""

MODEL = ("accuracy", "cost", "budget", "data", "float accuracy")
"""Tags of the registered model: those of its champion."""


def registered(store: Store, bundle: StageResult, pyfunc: Path, run_id: str) -> ModelVersion:
    """The version of `quee-EXPERIMENT` with a bundle; a missing one is added as a model of the run."""
    name, digest = model_name(bundle.experiment), bundle.outs[bundle.folder]
    made = next((v for v in store.versions(f"name = '{name}'") if v.tags.get(BUNDLE) == digest), None)
    return _add_version(store, bundle, pyfunc, run_id) if made is None else made


def finish(client: MlflowClient, version: ModelVersion, decision: str, about: str) -> None:
    """Describe the model, and record the decision, which completes the registration."""
    champion = client.get_model_version_by_alias(version.name, CHAMPION)
    known = f"**Champion: version {champion.version}.** {_said(champion.tags)}".strip()
    newest = ""
    if champion.version != version.version:
        newest = f"Version {version.version} is {decision}. {comparison_link(champion, version)}"
    client.update_registered_model(version.name, "\n\n".join(part for part in (about, known, newest) if part))
    for tag in MODEL:
        if tag in champion.tags:
            client.set_registered_model_tag(version.name, tag, champion.tags[tag])
    client.set_model_version_tag(version.name, version.version, DECIDED, decision)


def _add_version(store: Store, bundle: StageResult, pyfunc: Path, run_id: str) -> ModelVersion:
    client, root, folder = store.client, store.root, store.root / bundle.folder
    name, experiment_id = model_name(bundle.experiment), client.get_run(run_id).info.experiment_id
    made_by = client.get_run(store.held().runs[bundle.digest]).data.tags
    short = {BUNDLE: bundle.outs[bundle.folder], DIGEST: bundle.digest, "quee.experiment": bundle.experiment}
    tags = validation_tags(root, bundle) | short | {key: value for key, value in made_by.items() if key in CARRIED}
    for stale in client.search_logged_models([experiment_id], f"tags.`{BUNDLE}` = '{short[BUNDLE]}'"):
        client.delete_logged_model(stale.model_id)
    model = client.create_logged_model(experiment_id, name, run_id, tags=short, model_type=BUNDLE_MODEL)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    with tempfile.TemporaryDirectory() as aside:
        saved = Path(aside) / "model"
        made = Model(run_id=run_id, model_id=model.model_id)
        save_bundle_model(saved, folder, code_root(root) / pyfunc, made, code_root(root) / "quee")
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    try:
        client.create_registered_model(name, tags={"quee.experiment": bundle.experiment})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    description = "\n\n".join(part for part in (_said(tags), text) if part)[:DESCRIPTION]
    return client.create_model_version(
        name, f"models:/{model.model_id}", run_id, tags, description=description, model_id=model.model_id
    )


def _said(tags: dict[str, str]) -> str:
    """A version's tags in a sentence, which lists of versions show; empty where its results are not known."""
    if "accuracy" not in tags:
        return ""
    said = measure_of({KEY: tags.get(f"quee.{KEY}", ACCURACY.name)}).said
    share = percent(float(tags["accuracy"]))
    return said(
        f"Accuracy {share} at cost {float(tags['cost']):.2g} on {tags['measured on']}, with budget {tags['budget']}."
    )


def validation_tags(root: Path, bundle: StageResult) -> dict[str, str]:
    """The bundle's results on validation at its budget; empty where its evaluation is no longer here."""
    described = _json(root / bundle.folder / "bundle.json")
    policy, budget = described.get("policy", "plan"), described.get("budget")
    method = METHODS[policy].shown if policy in METHODS else policy
    point = next((p for p in _points(root, bundle) if (p["method"], p["budget"]) == (method, budget)), {})
    needed = ("validation_accuracy", "validation_cost", "accuracy_low", "accuracy_high")
    if any(point.get(name) is None for name in needed):
        return {}
    prepare = f"artifacts/{bundle.experiment}/prepare"
    dataset = _json(root / prepare / "dataset.json")
    samples = dataset.get("splits", {}).get("validation")
    tags = {
        "accuracy": _number(point["validation_accuracy"]),
        "accuracy at least": _number(point["accuracy_low"]),
        "accuracy at most": _number(point["accuracy_high"]),
        "cost": _number(point["validation_cost"]),
        "budget": f"{budget:g}",
        "method": method,
        "data": str(dataset.get("dataset", bundle.experiment)),
        "measured on": counted(samples, "validation image") if samples else "validation images",
        DATA: bundle.deps.get(prepare, "not known"),
    }
    for known in described.get("operating_points", [])[:1]:
        if known.get("accuracy_loss") is not None:
            tags["float accuracy"] = _number(known["accuracy"] + known["accuracy_loss"] / 100)
    return tags | {f"quee.{name}": value for name, value in measure_of(described).facts.items()}


def _number(value: float) -> str:
    return f"{value:.6g}"


def _points(root: Path, bundle: StageResult) -> list[dict[str, Any]]:
    """The operating points of the bundle's evaluation, of the first seed."""
    folder = f"artifacts/{bundle.experiment}/evaluate"
    file = root / folder / "operating_points.parquet"
    if not file.is_file() or dvc_digest(root / folder) != bundle.deps.get(folder):
        return []
    return of_first_seed(read_table(file).to_pylist())


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def decide(client: MlflowClient, version: ModelVersion) -> str:
    """Move `champion` to a version that is better on validation by more than its interval; returns the reason.

    A version that loses the alias says so in the tag that gave its own reason.
    """
    name = version.name
    try:
        champion = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        champion = None
    if champion is not None and champion.version == version.version:
        return "champion"
    reigning = None if champion is None else {**champion.tags, "version": str(champion.version)}
    moves, why = compared(reigning, version.tags)
    if moves:
        client.set_registered_model_alias(name, CHAMPION, version.version)
        if champion is not None:
            until = f"was champion until version {version.version}, which is {why.partition(': ')[0]}"
            client.set_model_version_tag(name, champion.version, DECIDED, until)
    return f"champion, {why}" if moves else f"not champion, {why}"


def compared(champion: dict[str, str] | None, new: dict[str, str]) -> tuple[bool, str]:
    """Whether a version replaces the champion, by the tags of both, and why."""
    if champion is None:
        return True, "as there was none"
    stays = f"version {champion['version']} stays"
    before, after = _decisive(champion), _decisive(new)
    if "accuracy" not in after:
        return False, f"{stays}: what this one does on validation is not known"
    if "accuracy" not in before:
        return False, f"{stays}: what it does on validation is not known, so the alias is yours to move"
    for key, what in (("budget", "budgets"), (DATA, "validation samples")):
        if before.get(key) != after.get(key):
            return False, f"{stays}: the {what} differ, so the alias is yours to move"
    old, now, low = float(before["accuracy"]), float(after["accuracy"]), float(after["accuracy at least"])
    facts = f"{100 * now:.2f} % against {100 * old:.2f} % of version {champion['version']} on validation at budget "
    facts += f"{after['budget']}, interval from {100 * low:.2f} %"
    if low > old:
        return True, f"better by more than its interval: {facts}"
    return False, f"{stays}, as this one is not better by more than its interval: {facts}"


def _decisive(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a version by which it is compared, by their present names."""
    found = {name: tags.get(name, tags.get(earlier)) for name, earlier in EARLIER.items()}
    return {name: value for name, value in found.items() if value is not None}


def save_bundle_model(path: Path, bundle: Path, script: Path, model: Model, package: Path) -> None:
    """Write the MLflow model: the script as the model, the bundle as its data, the package as its code."""
    with tempfile.TemporaryDirectory() as aside:
        code, files = Path(aside) / "code" / package.name, Path(aside) / "files" / bundle.name
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(bundle, files)  # MLflow does not accept links, which DVC makes with `cache.type symlink`
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it asks for type hints; the signature is given
            save_model(
                path=path,
                mlflow_model=model,
                python_model=str(script),
                artifacts={"bundle": str(files)},
                code_paths=[str(code)],
                signature=signature(),
                pip_requirements=requirements(),
            )


def signature() -> ModelSignature:
    """Images in (N, height, width, channels), one row per image out; budget, trade-off or limit as parameters.

    The type is `object`, of any shape, so that MLflow passes the input on unchanged. MLflow would cast JSON to any other
    type before the model could refuse it; 0.5 would become a black 0.
    """
    import numpy as np

    answer: list[ColSpec | TensorSpec] = [
        ColSpec("long", "label"),  # index of the class
        ColSpec("string", "class"),
        ColSpec("string", "path", required=False),
        ColSpec("double", "cost"),
    ]
    options = [
        ParamSpec("budget", "double", None),  # default: the bundle's own, unless there is a trade-off
        ParamSpec("accuracy_loss", "double", None),  # points of accuracy below the float network
        ParamSpec("certified", "boolean", False),
        ParamSpec("trade_off", "double", None),
        ParamSpec("max_cost", "double", None),
        ParamSpec("pixels", "string", "uint8"),  # or `unit`: floats from 0 to 1
        ParamSpec("return_path", "boolean", True),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
        outputs=Schema(answer),
        params=ParamSchema(options),
    )


def requirements() -> list[str]:
    """What the model needs, at the versions installed here: the library's base, MLflow, and the first engine that is here.

    Without an engine of exported graphs that is PyTorch, with all that training needs.
    """
    extra = next((name for name in installed_engines(graphs=True) if name != "torch"), "train")
    names = distributions() | distributions(extra) | {"mlflow"}
    return [f"{name}=={version(name)}" for name in sorted(names)]
