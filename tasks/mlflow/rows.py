"""Writing the results of experiments to MLflow: the rows that people compare."""

import re
from typing import TYPE_CHECKING, Any

import yaml
from mlflow.entities import LoggedModelOutput

from quee.errors import QueeError
from quee.evaluation.formats import comparable
from quee.report.sentence import with_chosen
from quee.settings.experiment import parse_experiment, resolved
from quee.work.io import read_json, read_table
from tasks.dvc.lock import ExperimentResult, StageResult
from tasks.mlflow.describe import FIGURE, NOTE, of_experiment, of_model, of_stage
from tasks.mlflow.headlines import Figures
from tasks.mlflow.memory import named
from tasks.mlflow.runs import Writer
from tasks.mlflow.store import BUNDLE, COMPLETE, DECIDED, OUT, STAGE_RUN, TABLES, model_name
from tasks.mlflow.values import experiment_metrics, settings_of
from tasks.work.journal import summary_file

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SHOWN = ("mlflow.", "quee.digest", "quee.kind", STAGE_RUN)
"""Beginnings of the tags of an experiment's run; with COMPLETE that makes 15 beside MLflow's own."""

EVALUATED = ("curve", "budgets", "operating_points", "quality", "quality_curve")
"""Tables of `evaluate` that an experiment's run has. Its figures are those of the report, in `report/figures`."""

SPEEDS = "benchmarks/results"
"""Folder with measurements of benchmarks/runtime.py, by experiment."""


class RowWriter(Writer):
    """Also writes the results of experiments; the caller holds the store's lock."""

    def log_experiment(self, result: ExperimentResult) -> str:
        """Add the run of a whole experiment, whose stages have runs of their own; returns its run id."""
        known = self.store.held().runs
        stages = {name: known[stage.digest] for name, stage in result.stages.items()}
        entries = {f"{name}@{result.experiment}": stage.entry for name, stage in result.stages.items()}
        tags = {"quee.kind": "experiment", "mlflow.source.name": f"quee run {result.experiment}"}
        tags |= {f"{STAGE_RUN}{name}": stage_id for name, stage_id in stages.items()}
        tags |= {f"{OUT}{path}": md5 for stage in result.stages.values() for path, md5 in stage.outs.items()}
        with self._run(result, self.journal.of_experiment(result), tags, SHOWN) as run_id:
            figures = self._figures(result)
            evaluate = result.stages.get("evaluate")
            points = figures.curves(self._rows(evaluate, "bands")) if evaluate else []
            self._log_numbers(run_id, own_first(settings_of(result.settings)), figures.metrics(), points)
            if rows := figures.table():
                self.client.log_table(run_id, _columns(rows), f"{TABLES}/results.json")
            self._log_metrics_table(run_id, self._numbers(result))
            if evaluate:
                self._log_tables(run_id, self.root / evaluate.folder, EVALUATED)
            first = result.stages.get("prepare")
            self.client.log_inputs(run_id, self._datasets(first) if first else [])
            self._log_report(run_id, result)
            self.client.log_text(
                run_id, yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=True), "dvc.lock"
            )
            self._log_experiment_file(run_id, result)
            version = self._version(result)
            self.link_version(result, run_id, version, version.tags[DECIDED] if version else "")
            self._describe_stages(result, run_id, stages)
        return run_id

    def link_version(
        self, result: ExperimentResult, run_id: str, version: "ModelVersion | None", decision: str
    ) -> None:
        """Describe an experiment's run, and make its bundle's registered version the model of the run.

        `decision` tells whether the version became champion, and why.
        """
        run = self.client.get_run(run_id)
        stages = {name: self.client.get_run(stage_id) for name, stage_id in named(run.data.tags, STAGE_RUN).items()}
        stages = {name: stages[name] for name in result.stages if name in stages}
        drawn = (self.root / "artifacts" / result.experiment / FIGURE).is_file()
        text = of_experiment(result, self._figures(result), run_id, stages, version, decision, drawn)
        self.client.set_tag(run_id, NOTE, text)
        if version is not None:
            model = str(version.source).removeprefix("models:/")
            if model not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
                self.client.log_outputs(run_id, [LoggedModelOutput(model, 0)])

    def about_model(self, result: ExperimentResult) -> str:
        """Description of the experiment's registered model."""
        return of_model(result, self._figures(result))

    def _version(self, result: ExperimentResult) -> "ModelVersion | None":
        """The registered version of the experiment's bundle, if it is registered already."""
        bundle = result.stages.get("bundle")
        digest = bundle.outs.get(bundle.folder) if bundle else None
        versions = self.store.versions(f"name = '{model_name(result.experiment)}'")
        return next((v for v in versions if v.tags.get(BUNDLE) == digest and DECIDED in v.tags), None)

    def _describe_stages(self, result: ExperimentResult, run_id: str, stages: dict[str, str]) -> None:
        """Make the stages' runs link to the experiments' runs that they are part of, this one included."""
        rows = self.store.runs("tags.`quee.kind` = 'experiment'")
        whole = [row for row in rows if COMPLETE in row.data.tags or row.info.run_id == run_id]
        for name, stage_id in stages.items():
            using = [row for row in whole if row.data.tags.get(f"{STAGE_RUN}{name}") == stage_id]
            stage = result.stages[name]
            self.client.set_tag(stage_id, NOTE, of_stage(stage.name, stage.entry.get("cmd", ""), using))

    def _figures(self, result: ExperimentResult) -> Figures:
        evaluate, bundle = result.stages.get("evaluate"), result.stages.get("bundle")
        block = result.settings.get("bundle", {})
        speeds = self.root / SPEEDS / f"{result.experiment}.json"
        return Figures(
            comparable((evaluate and self._json(evaluate, "metrics.json")) or {}),
            str(block.get("policy", "")),
            block.get("budget"),
            sum(int(out.get("size", 0)) for out in bundle.entry.get("outs", [])) if bundle else 0,
            read_json(speeds) if speeds.is_file() else {},
            with_chosen(*(self._rows(evaluate, name) for name in ("budgets", "operating_points"))) if evaluate else [],
        )

    def _rows(self, stage: StageResult, name: str) -> list[dict[str, Any]]:
        """Rows of a table of a stage; empty where there is none."""
        file = self.root / stage.folder / f"{name}.parquet"
        return list(read_table(file).to_pylist()) if file.is_file() else []

    def _numbers(self, result: ExperimentResult) -> dict[str, float]:
        return experiment_metrics(lambda stage: self._json(result.stages[stage], "metrics.json"), [*result.stages])

    def _log_report(self, run_id: str, result: ExperimentResult) -> None:
        """Log the report and its figures; the times of stages, which the page reads from a script, are put into the page."""
        folder = self.root / "artifacts" / result.experiment / "report"
        if not folder.is_dir():
            return
        self.client.log_artifacts(run_id, str(folder), "report")
        page, script = folder / "report.html", self.root / summary_file(result.experiment)
        if page.is_file() and script.is_file():
            said = script.read_text(encoding="utf-8").replace("</", "<\\/")
            tag = rf'<script src="[^"]*{re.escape(script.name)}"></script>'
            text = re.sub(tag, lambda _: f"<script>{said}</script>", page.read_text(encoding="utf-8"))
            self.client.log_text(run_id, text, "report/report.html")


def own_first(settings: dict[str, str]) -> dict[str, str]:
    """The settings, those first that are not at their default: by these experiments differ. MLflow shows them in this order.

    Settings that are no longer valid keep their order.
    """
    needed = {
        "prepare": {"dataset": settings.get("prepare.dataset")},
        "backbone": {"name": settings.get("backbone.name")},
    }
    try:
        defaults = settings_of(resolved(parse_experiment("defaults", yaml.safe_dump(needed), "defaults")))
    except QueeError:
        return settings
    told = [f"{block}.{key}" for block, keys in needed.items() for key in keys]
    own = [name for name in settings if name in told or settings[name] != defaults.get(name)]
    return {name: settings[name] for name in dict.fromkeys([*told, *own, *settings]) if name in settings}


def _columns(rows: list[dict[str, str]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
