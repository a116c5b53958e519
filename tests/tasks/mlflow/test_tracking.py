"""Tracking into a real SQLite store: each distinct result once and whole, for any number of calls and of trackers."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from quee.errors import QueeError, UnreachableError, UsageError
from quee.settings.experiment import parse_experiment, resolved
from quee.work.io import write_json, write_table, write_tensors
from tasks.dvc.lock import dvc_digest, out_problem, read_lock
from tasks.mlflow import tracking
from tasks.mlflow.compare import side
from tasks.mlflow.store import Held, Store, default_uri
from tasks.mlflow.tracking import read_ledger, track
from tasks.resolved import settings_file
from tasks.verbs.lineage import chain_of

CHECKOUT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
ENVIRONMENT.pop("MLFLOW_TRACKING_URI", None)
STAGES = [
    "prepare",
    "backbone",
    "tree",
    "quantize",
    "exits",
    "features",
    "targets",
    "predictors",
    "policies",
    "evaluate",
    "report",
    "bundle",
]
READS = {
    "prepare": [],
    "backbone": ["prepare"],
    "tree": ["prepare", "backbone"],
    "quantize": ["prepare", "backbone", "tree"],
    "exits": ["prepare", "backbone", "tree", "quantize"],
    "features": ["prepare", "backbone", "tree", "quantize", "exits"],
    "targets": ["features"],
    "predictors": ["features", "targets"],
    "policies": ["features", "targets", "predictors"],
    "evaluate": ["features", "predictors", "policies"],
    "report": ["evaluate"],
    "bundle": ["prepare", "backbone", "quantize", "predictors", "policies", "evaluate"],
}
BLOCKS: dict[str, Any] = {
    "prepare": {"dataset": "digits"},
    "backbone": {"name": "vit_digits", "kwargs": {"depth": 8}, "epochs": 3},
    "paths": {"precisions": ["w3a3", "w8a8"]},
    "targets": {"clusters": 20},
    **{
        block: {}
        for block in ("quantize", "exits", "features", "predictors", "policies", "evaluate", "report", "bundle")
    },
}
USES = {"tree": ["paths", "quantize"]}
METHODS = ("static_w8a8", "static_hull", "quee_plan", "oracle")
PYFUNC = """
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Classifier(PythonModel):
    def load_context(self, context):
        self.bundle = context.artifacts["bundle"]

    def predict(self, context, model_input, params=None):
        cost = [params["budget"]] * len(model_input)
        return pd.DataFrame({"label": 0, "class": "zero", "path": "w8a8", "cost": cost})


set_model(Classifier())
"""


def write_stage(root: Path, stage: str, seed: int = 0) -> None:
    """Write plausible outputs of a stage, in the schemas of the design."""
    out = root / "artifacts" / "digits" / stage
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    tensors = {"weight": draw.normal(size=(4, 4)).astype(np.float32)}
    if stage == "prepare":
        write_table(out / "splits.parquet", pa.table({"sample_id": np.arange(20), "split": ["train", "test"] * 10}))
        write_json(
            out / "dataset.json",
            {"dataset": "digits", "classes": ["zero", "one"], "samples": 20, "splits": {"test": 10}},
        )
    elif stage == "backbone":
        write_tensors(out / "model.safetensors", tensors)
        write_json(out / "backbone.json", {"name": "vit_digits", "gates": [2, 4]})
        write_table(
            out / "history.parquet",
            pa.table({"epoch": [1, 2, 3], "loss": [2.0, 1.0, 0.5], "accuracy": [0.3, 0.6, 0.9]}),
        )
        write_json(out / "metrics.json", {"accuracy": {"train": 0.99, "test": 0.97}, "parameters": 12345})
    elif stage == "tree":
        write_json(out / "tree.json", {"format": 1, "precisions": ["w3a3", "w8a8"]})
    elif stage == "quantize":
        for precision in ("w3a3", "w8a8"):
            write_tensors(out / f"{precision}.safetensors", tensors)
        rows = [
            {"precision": "w3a3", "position": i, "layer": name, "sqnr_db": 20.0 + i}
            for i, name in enumerate(("patch_embed.proj", "blocks.0.attn.qkv"))
        ]
        write_table(out / "sensitivity.parquet", pa.Table.from_pylist(rows))
        write_json(out / "metrics.json", {"precisions": {"w3a3": {"accuracy": 0.9, "cost": 0.14}}})
    elif stage == "features":
        write_table(out / "part-00000.parquet", pa.table({"sample_id": np.arange(10), "node": np.zeros(10, np.int32)}))
        write_json(out / "tree.json", {"format": 1, "nodes": []})
    elif stage == "predictors":
        write_tensors(out / "predictors.safetensors", tensors)
        history = {"gate": [1, 1, 2, 2], "epoch": [1, 2, 1, 2], "loss": [0.5, 0.4, 0.3, 0.2]}
        write_table(out / "history.parquet", pa.table(history))
        write_json(out / "metrics.json", {"gates": {"1": {"rmse": 0.1, "auroc": None}}})
    elif stage == "evaluate":
        write_evaluation(out, seed)
    elif stage == "report":
        (out / "figures").mkdir()
        (out / "figures" / "curves.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (out / "report.html").write_text('<!doctype html><script src="../digits.js"></script>')
    elif stage == "bundle":
        write_tensors(out / "w8a8.safetensors", tensors)
        write_json(out / "bundle.json", {"format": 1, "experiment": "digits", "budget": 0.2})
        (out / "README.md").write_text("# digits\nAccuracy 97 % at a fifth of the cost.\n")
    else:
        write_tensors(out / f"{stage}.safetensors", tensors)
        write_json(out / "metrics.json", {"value": 0.5 + seed / 100})


def write_evaluation(out: Path, seed: int = 0) -> None:
    costs = np.geomspace(0.05, 1.0, 12)
    rows = [
        {
            "method": m,
            "lambda": 1 / c,
            "threshold": None,
            "split": s,
            "seed": 0,
            "accuracy": 0.8 + 0.19 * c**0.5 + i / 1000,
            "cost": c,
        }
        for i, m in enumerate(METHODS)
        for s in ("test", "validation")
        for c in costs[:: -1 if m == "quee_plan" else 1]
    ]
    write_table(out / "curve.parquet", pa.Table.from_pylist(rows))
    bands = [{name: row[name] for name in ("method", "cost", "accuracy")} for row in rows if row["split"] == "test"]
    write_table(out / "bands.parquet", pa.Table.from_pylist(bands))
    points = [
        {
            "method": m,
            "budget": b,
            "test_cost": b * 1.01,
            "test_accuracy": 0.8 + 0.19 * b**0.5 + seed / 1000,
            "validation_accuracy": 0.8 + 0.19 * b**0.5 + seed / 1000,
            "validation_cost": b,
            "accuracy_low": 0.795 + 0.19 * b**0.5 + seed / 1000,
            "accuracy_high": 0.805 + 0.19 * b**0.5 + seed / 1000,
            "budget_met": b > 0.05,
            "seed": 0,
        }
        for m in METHODS
        for b in (0.05, 0.2, 1.0)
    ]
    write_table(out / "operating_points.parquet", pa.Table.from_pylist(points))
    methods = {
        m: {"auc": 0.9 + seed / 1000, "accuracy_at_budget": {"0.2": 0.88}, "cost_at_drop_1.0": None} for m in METHODS
    }
    difference = {"quee_plan": {"0.2": {"mean": 0.01, "low": 0.0, "high": 0.02}}}
    metrics = {
        "experiment": "digits",
        "format": 2,
        "fp32_accuracy": 0.975,
        "methods": methods,
        "oracle_gap_closed": {"quee_plan": 0.4},
    }
    write_json(out / "metrics.json", {**metrics, "difference_vs_static_hull": difference})


def write_lock(root: Path, blocks: dict[str, Any] = BLOCKS, stages: list[str] = STAGES) -> None:
    """Record the contents of artifacts/ in dvc.lock, as DVC does."""
    entries = {}
    for stage in stages:
        folder = f"artifacts/digits/{stage}"
        images = [{"path": "experiments/digits.data", "hash": "md5", "md5": "a" * 32 + ".dir"}]
        deps = [{"path": f"tasks/{stage}.py", "hash": "md5", "md5": "b" * 32}, *(images if stage == "prepare" else [])]
        deps += [
            {"path": d, "hash": "md5", "md5": dvc_digest(root / d)}
            for d in (f"artifacts/digits/{s}" for s in READS[stage])
        ]
        files = [file for file in (root / folder).rglob("*") if file.is_file()]
        out = {"path": folder, "hash": "md5", "md5": dvc_digest(root / folder), "nfiles": len(files)}
        out["size"] = sum(file.stat().st_size for file in files)
        settings = resolved(parse_experiment("digits", yaml.safe_dump(blocks), "digits.yaml"))
        params = {settings_file("digits"): {block: settings[block] for block in USES.get(stage, [stage])}}
        command = f"python -m tasks.{stage} digits"
        entries[f"{stage}@digits"] = {"cmd": command, "deps": deps, "params": params, "outs": [out]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; making one takes a second."""
    root = tmp_path_factory.mktemp("store")
    Store(root, default_uri(root))
    return root / "mlflow.db"


@pytest.fixture
def project(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages have all been run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path)
    for stage in STAGES:
        write_stage(tmp_path, stage)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.yaml").write_text("# digits, fast\n" + yaml.safe_dump(BLOCKS))
    (tmp_path / "params.yaml").write_text("experiments: [digits]\n")
    stages = {
        stage: {"matrix": {"experiment": "${experiments}"}, "cmd": f"python -m tasks.{stage}"} for stage in STAGES
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    write_lock(tmp_path)
    return tmp_path


def with_pyfunc(root: Path) -> None:
    (root / tracking.PYFUNC).parent.mkdir(parents=True)
    (root / tracking.PYFUNC).write_text(PYFUNC)
    (root / "quee" / "__init__.py").write_text("")


def runs_of(root: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000))


def named(root: Path, name: str) -> Any:
    (found,) = [run for run in runs_of(root) if run.info.run_name.split()[0] == name]
    return found


def client_of(root: Path) -> Any:
    from mlflow import MlflowClient

    uri = f"sqlite:///{root / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def test_every_result_becomes_one_flat_run_named_for_people(project: Path) -> None:
    done = track(project)
    assert len(done.logged) == len(STAGES) + 1
    titles = sorted(run.info.run_name for run in runs_of(project))
    assert titles == sorted(done.logged)
    assert all(run.data.tags["quee.complete"] == "true" for run in runs_of(project))
    assert not [run for run in runs_of(project) if "mlflow.parentRunId" in run.data.tags]


def test_tracking_again_adds_nothing_and_does_not_import_mlflow(project: Path) -> None:
    first = track(project)
    code = "import sys; from pathlib import Path; from tasks.mlflow.tracking import track; d = track(Path('.'))"
    code += "; print(d.known, len(d.logged), 'mlflow' in sys.modules)"
    start = time.monotonic()
    again = subprocess.run([sys.executable, "-c", code], cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.stdout.split() == [str(len(first.logged)), "0", "False"], again.stderr
    assert time.monotonic() - start < 2.0
    assert len(runs_of(project)) == len(first.logged)


def test_two_trackers_at_once_make_each_run_once(project: Path) -> None:
    code = "from pathlib import Path; from tasks.mlflow.tracking import track; print(len(track(Path('.')).logged))"
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    logged = sorted(int(process.communicate(timeout=120)[0]) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert logged == [0, len(STAGES) + 1]
    digests = [run.data.tags["quee.digest"] for run in runs_of(project)]
    assert len(digests) == len(set(digests)) == len(STAGES) + 1


def test_an_interrupted_run_is_replaced(project: Path) -> None:
    track(project)
    client, run = client_of(project), named(project, "digits/backbone")
    client.delete_tag(run.info.run_id, "quee.complete")
    done = track(project, force=True)
    assert done.logged == [run.info.run_name]
    assert named(project, "digits/backbone").info.run_id != run.info.run_id
    models = client.search_logged_models([run.info.experiment_id])
    assert [model.name for model in models].count("digits-backbone") == 1


def test_a_changed_setting_adds_only_the_results_it_changed(project: Path) -> None:
    first = track(project)
    for stage in STAGES[STAGES.index("targets") :]:
        write_stage(project, stage, seed=1)
    write_lock(project, {**BLOCKS, "targets": {"clusters": 10}})
    second = track(project)
    again = {"targets", "predictors", "policies", "evaluate", "report", "bundle"}
    assert {title.split()[0] for title in second.logged} == {f"digits/{stage}" for stage in again} | {"digits"}
    assert len(runs_of(project)) == len(first.logged) + len(second.logged)


def test_the_experiments_run_leads_to_its_stages_and_says_its_result_in_few_numbers(project: Path) -> None:
    track(project)
    client, run = client_of(project), named(project, "digits")
    assert client.get_experiment(run.info.experiment_id).name == "quee"
    for stage in STAGES:
        of_stage = named(project, f"digits/{stage}")
        assert run.data.tags[f"stage_run.{stage}"] == of_stage.info.run_id
        assert client.get_experiment(of_stage.info.experiment_id).name == "quee/stages"
        here = f"#/experiments/{of_stage.info.experiment_id}/runs/{of_stage.info.run_id}?"
        assert f"[{stage}]({here}" in run.data.tags["mlflow.note.content"]
        back = f"[{run.info.run_name}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?"
        assert back in of_stage.data.tags["mlflow.note.content"]
    assert len([name for name in run.data.tags if not name.startswith("mlflow.")]) <= 15
    assert len(run.data.metrics) <= 25
    assert run.data.metrics["float accuracy"] == pytest.approx(0.975)
    assert run.data.metrics["accuracy of the default"] == pytest.approx(0.88)
    assert run.data.metrics["auc"] == pytest.approx(0.9)
    assert run.data.params["targets.clusters"] == "20"
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files == {"tables", "report", "dvc.lock", "experiments", "facts.json"}
    figures = [item.path for item in client.list_artifacts(run.info.run_id, "report/figures")]
    assert figures == ["report/figures/curves.svg"]
    assert (
        f"![Accuracy over cost](get-artifact?path=report%2Ffigures%2Fcurves.svg&run_uuid={run.info.run_id})"
        in (run.data.tags["mlflow.note.content"])
    )


def test_curves_have_costs_as_steps_so_that_those_of_two_runs_lie_over_each_other(project: Path) -> None:
    track(project)
    curve = client_of(project).get_metric_history(named(project, "digits").info.run_id, "curve/quee_plan")
    assert [metric.step for metric in curve] == [round(1000 * cost) for cost in np.geomspace(0.05, 1.0, 12)]
    assert [metric.value for metric in curve] == sorted(metric.value for metric in curve)


def test_all_numbers_are_in_a_table_and_are_compared_from_there(project: Path) -> None:
    track(project)
    found = side(project, named(project, "digits").info.run_id, "")
    here = side(project, "digits", "")
    assert found.metrics == here.metrics
    assert found.settings == here.settings
    assert found.result is not None and here.result is not None
    assert {name: stage.outs for name, stage in found.result.stages.items()} == {
        name: stage.outs for name, stage in here.result.stages.items()
    }
    assert found.metrics["methods/quee_plan.auc"] == pytest.approx(0.9)
    assert found.metrics["evaluate/format"] == 2
    assert found.metrics["backbone/accuracy.test"] == pytest.approx(0.97)
    stage = side(project, named(project, "digits/evaluate").info.run_id, "")
    assert stage.metrics["methods/quee_plan.auc"] == pytest.approx(0.9)
    assert stage.result is None


def test_a_stage_that_two_results_share_links_to_both(project: Path) -> None:
    track(project)
    write_stage(project, "report")
    (project / "artifacts/digits/report/report.html").write_text("<!doctype html>anew")
    write_lock(project)
    track(project)
    rows = [run for run in runs_of(project) if run.data.tags["quee.kind"] == "experiment"]
    assert len(rows) == 2
    said = named(project, "digits/targets").data.tags["mlflow.note.content"]
    assert all(run.info.run_id in said for run in rows)


def as_earlier(root: Path) -> Any:
    """Make the experiment's run one of an earlier version: in an experiment of MLflow's of its own, and in the ledger."""
    client, run = client_of(root), named(root, "digits")
    home = client.create_experiment("quee/digits", (root / "mlruns" / "digits").as_uri())
    earlier = client.create_run(home, tags={**run.data.tags, "mlflow.runName": run.info.run_name})
    for number in range(40):
        client.log_metric(earlier.info.run_id, f"methods/m{number}.auc", 0.5)
    client.set_terminated(earlier.info.run_id)
    client.delete_run(run.info.run_id)
    (ledger,) = (root / ".quee" / "tracked").glob("*.json")
    content = json.loads(ledger.read_text())
    ledger.write_text(json.dumps({key: value for key, value in content.items() if key != "format"}))
    return earlier


def test_the_run_of_an_earlier_version_is_replaced_and_its_stages_runs_stay(project: Path) -> None:
    first = track(project)
    stages = {name: named(project, f"digits/{name}").info.run_id for name in STAGES}
    earlier = as_earlier(project)
    assert track(project).logged == [earlier.data.tags["mlflow.runName"]]
    run = named(project, "digits")
    assert run.info.run_id != earlier.info.run_id
    assert len(run.data.metrics) <= 25
    assert {name: run.data.tags[f"stage_run.{name}"] for name in STAGES} == stages
    assert len(runs_of(project)) == len(first.logged)
    assert track(project).logged == track(project, force=True).logged == []


def test_the_earlier_run_of_a_result_that_is_no_longer_here_stays(project: Path) -> None:
    track(project)
    earlier = as_earlier(project)
    write_evaluation(project / "artifacts/digits/evaluate", seed=3)
    write_lock(project)
    track(project)
    rows = [run for run in runs_of(project) if run.data.tags["quee.kind"] == "experiment"]
    assert len(rows) == 2
    assert earlier.info.run_id in [run.info.run_id for run in rows]


def test_a_stage_run_carries_settings_metrics_history_data_sets_models_and_lineage(project: Path) -> None:
    track(project)
    client, run = client_of(project), named(project, "digits/backbone")
    assert run.data.params["backbone.kwargs.depth"] == "8"
    assert run.data.params["backbone.label_smoothing"] == "0.0"  # a default, left out in the YAML
    assert run.data.metrics["accuracy/test"] == pytest.approx(0.97)
    assert "quee.tracker" not in run.data.tags
    assert [m.value for m in client.get_metric_history(run.info.run_id, "history/loss")] == [2.0, 1.0, 0.5]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "history/loss")] == [1, 2, 3]
    assert run.data.tags["quee.dep.tasks/backbone.py"] == "b" * 32
    read = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert read == {"digits/prepare": dvc_digest(project / "artifacts/digits/prepare")}
    images = {item.dataset.name for item in named(project, "digits/prepare").inputs.dataset_inputs}
    assert images == {"digits"}
    models = {model.name for model in client.search_logged_models([run.info.experiment_id])}
    assert models >= {"digits-backbone", "digits-quantize-w3a3", "digits-quantize-w8a8", "digits-predictors"}
    gates = client.get_metric_history(named(project, "digits/predictors").info.run_id, "history/gate_2.loss")
    assert [metric.value for metric in gates] == [0.3, 0.2]


def test_the_quantize_run_shows_each_layers_sensitivity_as_a_table(project: Path) -> None:
    track(project)
    client, run = client_of(project), named(project, "digits/quantize")
    table = json.loads(
        Path(client.download_artifacts(run.info.run_id, "tables/sensitivity.json")).read_text(encoding="utf-8")
    )
    layers = [row[table["columns"].index("layer")] for row in table["data"]]
    assert layers == ["patch_embed.proj", "blocks.0.attn.qkv"]


def test_code_that_is_recorded_as_parameters_is_in_the_lineage_of_what_rests_on_it(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    code = {"artifacts/digits/settings/code.json": {"targets": {"quee/targets.py": "c" * 16}}}
    lock["stages"]["targets@digits"]["params"] |= code
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    track(project)
    for name in ("digits/targets", "digits/predictors", "digits"):
        found = chain_of(project, named(project, name).info.run_id)
        assert found.inputs["quee/targets.py"] == "c" * 16
        assert found.inputs["tasks/targets.py"] == "b" * 32


def test_feature_caches_are_not_copied_but_their_digests_are(project: Path) -> None:
    track(project)
    assert not list((project / "mlruns").rglob("part-*.parquet"))
    digest = dvc_digest(project / "artifacts/digits/features")
    assert named(project, "digits/features").data.tags["quee.out.artifacts/digits/features"] == digest
    read = {item.dataset.name: item.dataset.digest for item in named(project, "digits/targets").inputs.dataset_inputs}
    assert read["digits/features"] == digest


def test_the_journal_gives_times_machine_and_orchestrator(project: Path) -> None:
    end = time.time()
    record = {"experiment": "digits", "stage": "targets", "start": end - 42, "end": end, "status": "done", "pid": 1}
    record |= {"prefect_run": "7d3c", "machine": {"host": "here", "cores": 2}, "versions": {"torch": "2.15.0"}}
    (project / ".quee" / "journal").mkdir(parents=True)
    write_json(project / ".quee" / "journal" / "20990101T000000-digits-targets-1.json", record)
    (project / ".quee" / "journal" / "digits.js").write_text('queeStages([["targets", "42.0"]]);')
    track(project)
    client = client_of(project)
    report = client.list_artifacts(named(project, "digits").info.run_id, "report")
    assert "report/report.html" in [file.path for file in report]
    text = client.download_artifacts(named(project, "digits").info.run_id, "report/report.html")
    assert '<script>queeStages([["targets", "42.0"]]);</script>' in Path(text).read_text()
    run = named(project, "digits/targets")
    assert (run.info.end_time - run.info.start_time) / 1000 == pytest.approx(42, abs=0.01)
    assert run.data.tags["prefect.flow_run_id"] == "7d3c"
    assert run.data.tags["quee.made.machine.cores"] == "2"
    assert run.data.tags["quee.made.versions.torch"] == "2.15.0"


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_results_that_are_not_on_disk_are_skipped_with_the_reason(project: Path, damage: str) -> None:
    if damage == "missing":
        shutil.rmtree(project / "artifacts/digits/policies")
    else:
        (project / "artifacts/digits/policies/metrics.json").write_text('{"value": 0.9}')
    done = track(project)
    assert "artifacts/digits/policies" in done.skipped["digits/policies"]
    assert "policies" in done.skipped["digits"]
    assert len(done.logged) == len(STAGES) - 1
    write_stage(project, "policies")
    assert {title.split()[0] for title in track(project).logged} == {"digits/policies", "digits"}


def test_an_experiment_half_run_again_has_no_run_of_its_own(project: Path) -> None:
    write_stage(project, "targets", seed=1)
    new = dvc_digest(project / "artifacts/digits/targets")
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    lock["stages"]["targets@digits"]["outs"][0]["md5"] = new
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    done = track(project)
    assert "earlier artifacts/digits/targets" in done.skipped["digits"]


def test_a_bundle_is_registered_once_and_answers_from_the_registry(project: Path) -> None:
    without = track(project)
    assert "not registered" in without.skipped["model quee-digits"]
    with_pyfunc(project)
    assert track(project).registered == ["quee-digits version 1"]
    assert track(project).registered == []
    import mlflow

    model = mlflow.pyfunc.load_model("models:/quee-digits@champion")
    answer = model.predict(np.zeros((2, 8, 8, 1), np.uint8), params={"budget": 0.3})
    assert list(answer["cost"]) == [0.3, 0.3]


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_results_that_dvc_placed_as_links_are_held_as_files(project: Path, kind: str) -> None:
    with_pyfunc(project)
    cache = project / ".dvc" / "cache" / "files" / "md5"
    for number, file in enumerate(sorted((project / "artifacts").rglob("*"))):
        if file.is_file():
            kept = cache / f"{number:02x}" / f"{number:030x}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            file.rename(kept)
            file.symlink_to(kept) if kind == "symlink" else file.hardlink_to(kept)
    done = track(project)
    assert done.skipped == {}
    assert done.registered == ["quee-digits version 1"]
    held = [file for file in (project / "mlruns").rglob("*") if not file.is_dir()]
    assert [file for file in held if file.is_symlink()] == []
    shutil.rmtree(cache)
    import mlflow

    model = mlflow.pyfunc.load_model("models:/quee-digits@champion")
    assert list(model.predict(np.zeros((1, 8, 8, 1), np.uint8), params={"budget": 0.3})["cost"]) == [0.3]


def test_champion_moves_only_to_a_bundle_better_by_more_than_its_interval(project: Path) -> None:
    with_pyfunc(project)
    assert list(track(project).decided.values()) == ["champion, as there was none"]
    client = client_of(project)
    for version, seed in (("2", 1), ("3", 9)):  # each step is a tenth of a percent, the interval half a percent
        for stage in ("evaluate", "bundle"):
            write_stage(project, stage, seed=seed)
        write_lock(project)
        (decision,) = track(project).decided.values()
        assert ("not champion" in decision) == (version == "2")
        assert "% of version 1 on validation at budget 0.2" in decision
        assert client.get_model_version("quee-digits", version).tags["quee.champion"] == decision
    assert str(client.get_model_version_by_alias("quee-digits", "champion").version) == "3"
    said = {number: client.get_model_version("quee-digits", number).tags["quee.champion"] for number in "123"}
    assert said["1"] == "was champion until version 3, which is better by more than its interval"
    assert said["2"].startswith("not champion, version 1 stays")
    assert said["3"].startswith("champion, better by more than its interval: ")
    model, best = client.get_registered_model("quee-digits"), client.get_model_version("quee-digits", "3")
    assert model.tags["accuracy"] == best.tags["accuracy"]
    for stage, seed in (("prepare", 5), ("evaluate", 50), ("bundle", 50)):
        write_stage(project, stage, seed=seed)
    (project / "artifacts/digits/prepare/dataset.json").write_text('{"dataset": "digits", "splits": {"validation": 3}}')
    write_lock(project)
    assert "the validation samples differ" in track(project).decided["quee-digits version 4"]


def test_a_version_says_its_results_in_words_and_is_the_model_of_its_experiments_run(project: Path) -> None:
    with_pyfunc(project)
    track(project)
    client, run = client_of(project), named(project, "digits")
    version = client.get_model_version("quee-digits", "1")
    assert version.run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [version.source.removeprefix("models:/")]
    assert "[quee-digits version 1](#/models/quee-digits/versions/1)" in run.data.tags["mlflow.note.content"]
    card = (project / "artifacts/digits/bundle/README.md").read_text()
    assert version.description == f"Accuracy 88.5 % at cost 0.2 on validation images, with budget 0.2.\n\n{card}"
    assert len(version.tags) <= 15
    assert version.tags["budget"] == "0.2"
    assert version.tags["data"] == "digits"
    assert float(version.tags["accuracy"]) == pytest.approx(0.8 + 0.19 * 0.2**0.5, abs=1e-5)
    model = client.get_registered_model("quee-digits")
    assert "models:/quee-digits@champion" in model.description
    assert model.tags["accuracy"] == version.tags["accuracy"]


def test_a_result_with_a_registered_bundle_gets_the_same_version(project: Path) -> None:
    with_pyfunc(project)
    track(project)
    write_stage(project, "report")
    (project / "artifacts/digits/report/report.html").write_text("<!doctype html>anew")
    write_lock(project)
    assert track(project).registered == []
    rows = [run for run in runs_of(project) if run.data.tags["quee.kind"] == "experiment"]
    assert len(rows) == 2
    assert len({output.model_id for run in rows for output in run.outputs.model_outputs}) == 1


def test_a_version_whose_registration_was_cut_short_is_finished_not_doubled(project: Path) -> None:
    with_pyfunc(project)
    track(project)
    client = client_of(project)
    client.delete_model_version_tag("quee-digits", "1", "quee.champion")
    client.delete_registered_model_alias("quee-digits", "champion")
    assert track(project, force=True).registered == ["quee-digits version 1"]
    assert str(client.get_model_version_by_alias("quee-digits", "champion").version) == "1"
    assert len(client.search_model_versions("name = 'quee-digits'")) == 1


class Answers500(http.server.BaseHTTPRequestHandler):
    status = 500

    def answer(self) -> None:
        self.send_error(self.status)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def failing() -> Iterator[str]:
    """A server that answers everything with 500."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers500)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_fails_loses_nothing(project: Path, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", failing)
    with pytest.raises(UnreachableError, match="nothing is lost"):
        track(project)
    command = [str(Path(sys.executable).parent / "quee"), "track", "--or-later"]
    later = subprocess.run(
        command,
        cwd=project,
        env={**ENVIRONMENT, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
    )
    assert later.returncode == 0
    assert "nothing is lost" in later.stderr
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(track(project).logged) == len(STAGES) + 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_is_not_for_later(
    project: Path, failing: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(Answers500, "status", status)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", failing)
    with pytest.raises(QueeError, match=f"refused the results: .*{status}") as raised:
        track(project)
    assert not isinstance(raised.value, UnreachableError)
    assert not raised.value.may_pass
    assert "nothing is lost" not in str(raised.value)


def test_a_store_out_of_reach_costs_a_message_and_loses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    with pytest.raises(QueeError, match="nothing is lost") as raised:
        track(project)
    assert raised.value.exit_status == 1
    assert "secret" not in str(raised.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(track(project).logged) == len(STAGES) + 1


def test_the_ledger_says_what_the_store_holds_and_nothing_of_one_that_is_gone(project: Path) -> None:
    with_pyfunc(project)
    track(project)
    uri = default_uri(project)
    assert read_ledger(project, uri) == Store(project, uri).held()
    assert read_ledger(project, "http://127.0.0.1:9") == Held()
    (project / "mlflow.db").unlink()
    assert read_ledger(project, uri) == Held()


def test_runs_deleted_by_hand_are_logged_again_with_force_alone(project: Path) -> None:
    track(project)
    run = named(project, "digits/targets")
    client_of(project).delete_run(run.info.run_id)
    assert track(project).logged == []
    assert track(project, force=True).logged == [run.info.run_name]


def test_an_unknown_experiment_is_refused_with_those_there_are(project: Path) -> None:
    with pytest.raises(UsageError, match="valid: digits"):
        track(project, ["digit"])


def test_folder_digests_are_dvcs_own(project: Path) -> None:
    command = [sys.executable, "-m", "dvc"]
    quiet = {**ENVIRONMENT, "DVC_NO_ANALYTICS": "1"}
    (project / "dvc.lock").unlink()
    (project / "dvc.yaml").unlink()
    subprocess.run([*command, "init", "--no-scm", "-q"], cwd=project, env=quiet, check=True)
    subprocess.run([*command, "add", "-q", "artifacts/digits/report"], cwd=project, env=quiet, check=True)
    recorded = yaml.safe_load((project / "artifacts/digits/report.dvc").read_text())
    assert recorded["outs"][0]["md5"] == dvc_digest(project / "artifacts/digits/report")


# Ablations: their own run and one per point, beside the experiment's

POINTS = {
    "base/as configured": {"clusters": 20, "policy": "plan", "gates": [1, 2]},
    "clusters/K = 5": {"clusters": 5, "policy": "plan", "gates": [1, 2]},
}


def write_ablation(root: Path, auc: float = 0.9) -> None:
    folder = root / "artifacts" / "digits" / "ablate"
    folder.mkdir(parents=True, exist_ok=True)
    points = {title: {"auc": auc, "validation_auc": 0.91} for title in POINTS}
    points["clusters/K = 5"]["gain.mean"] = -0.01
    write_json(folder / "metrics.json", {"experiment": "digits", "points": points})
    write_json(folder / "points.json", POINTS)
    out = {"path": "artifacts/digits/ablate", "hash": "md5", "md5": dvc_digest(folder), "nfiles": 2}
    out["size"] = sum(file.stat().st_size for file in folder.iterdir())
    params = {"experiments/digits.yaml": {"ablate": {"seeds": 3}}}
    entry = {"cmd": "python -m tasks.ablate digits", "deps": [], "params": params, "outs": [out]}
    (root / "ablations").mkdir(exist_ok=True)
    lock = yaml.safe_dump({"schema": "2.0", "stages": {"ablate@digits": entry}})
    (root / "ablations" / "dvc.lock").write_text(lock)


def test_every_point_of_an_ablation_is_a_run_with_its_settings_and_gain_once(project: Path) -> None:
    track(project)
    before = named(project, "digits").info.run_id
    write_ablation(project)
    assert len(track(project).logged) == 1
    whole = named(project, "digits/ablate")
    points = [run for run in runs_of(project) if run.data.tags["quee.kind"] == "point"]
    assert {run.info.run_name.rpartition(" ")[0] for run in points} == {f"digits/ablate/{title}" for title in POINTS}
    assert {run.data.tags["quee.ablation"] for run in points} == {whole.info.run_id}
    assert all(run.data.tags["quee.complete"] == "true" for run in points)
    (changed,) = [run for run in points if run.data.tags["quee.axis"] == "clusters"]
    assert changed.data.params["clusters"] == "5"
    assert changed.data.params["gates"] == "[1, 2]"
    assert changed.data.metrics["gain/mean"] == -0.01
    assert named(project, "digits").info.run_id == before

    count = len(runs_of(project))
    assert count == len(STAGES) + 1 + 1 + len(POINTS)
    assert not track(project).logged
    client_of(project).delete_tag(whole.info.run_id, "quee.complete")  # as an interruption leaves it
    assert len(track(project, force=True).logged) == 1
    assert len(runs_of(project)) == count


def test_an_ablation_is_no_part_of_the_experiment_and_skipped_when_it_is_not_what_was_recorded(project: Path) -> None:
    def pending() -> Any:
        results = read_lock(project)
        return tracking.find_pending(project, results, Held(), project, lambda result: out_problem(project, result))

    (project / "ablations").mkdir()
    (project / "ablations" / "dvc.lock").write_text("schema: '2.0'\n")
    before = pending()
    write_ablation(project)
    after = pending()
    assert [stage.name for stage in after.stages] == [*(stage.name for stage in before.stages), "digits/ablate"]
    assert [e.digest for e in after.experiments] == [e.digest for e in before.experiments]
    (project / "artifacts/digits/ablate/metrics.json").write_text("{}")
    assert "not what dvc.lock records" in pending().skipped["digits/ablate"]
