"""Kill the pipeline at random moments in all stages and check that the same command then ends in the same results.

    python benchmarks/faults.py --kills 50                  # about 15 s each on an idle core
    python benchmarks/faults.py --kills 10 --work /tmp/f    # goes on where the last call with this folder stopped

A small digits experiment (one epoch, two segments at two precisions) first runs undisturbed. Then, for each kill:

1. Restore the project as it is before a stage; stages are drawn in proportion to their time.
2. Start `quee run` and `quee track`. Send SIGKILL to the whole process group at a random moment during the start, the
   stage, or DVC's work after it.
3. Run both commands again, to the end.
4. Compare with the undisturbed run: the lock file with every digest, the files under artifacts/, and MLflow, which must
   hold each result once.

The killed stage is computed again. Later stages come from DVC's run cache, which has them only for equal inputs
(`--whole` computes those too).
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "train: 0.45, calibration: 256, predictor: 0.25, validation: 0.10, test: 0.20":
        "train: 0.15, calibration: 32, predictor: 0.10, validation: 0.05, test: 0.10",
    "[2, 4, 6, 8]": "[4, 8]",
    "[w3a3, w4a4, w8a8]": "[w4a4, w8a8]",
    "[w2a4, w6a6, fp32]": "[fp32]",
    "draws: 8": "draws: 1",
    "resplits: 20": "resplits: 0",
    "bootstrap: 1000": "bootstrap: 100",
    "targets:\n": "targets:\n  sweep: [5]\n",
}  # fmt: skip
TRACK = "track"
ENVIRONMENT = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp") / f"quee-faults-{os.getpid()}")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further kill after so long")
    parser.add_argument("--whole", action="store_true", help="compute the stages behind the killed one too")
    options = parser.parse_args()
    began = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    undisturbed = prepare(options.work / "undisturbed")
    log = options.work / "kills.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for number in range(len(done), options.kills):
        if time.monotonic() - began > options.seconds:
            break
        outcome = kill_once(undisturbed, options.work / f"kill-{number}", random.Random(f"{options.seed}-{number}"),
                            options.whole)  # fmt: skip
        done.append(outcome)
        with log.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(f"{number + 1:3} {outcome['phase']:10} at {outcome['moment']:5.1f} s in {outcome['killed_in']:24} "
              f"{'same' if not outcome['wrong'] else outcome['wrong']}", flush=True)  # fmt: skip
    summarise(done)
    sys.exit(any(outcome["wrong"] for outcome in done))


def summarise(done: list[dict[str, Any]]) -> None:
    print(f"\n{len(done)} kills; {sum(not outcome['wrong'] for outcome in done)} ended as the undisturbed run")
    for phase, count in collections.Counter(outcome["killed_in"] for outcome in done).most_common():
        print(f"  killed in {phase}: {count}")
    for line, count in collections.Counter(line for outcome in done for line in outcome["said"]).most_common():
        print(f"  said {count} times: {line}")


def prepare(target: Path) -> dict[str, Any]:
    """The small experiment, run undisturbed: its results and the time of each stage."""
    facts = target.with_suffix(".json")
    if not facts.exists():
        shutil.rmtree(target, ignore_errors=True)
        clone(target)
        start = time.time()
        command(target, "quee", "run")
        middle = time.time()
        command(target, "quee", "track")
        records = [json.loads(file.read_text()) for file in sorted((target / ".quee" / "journal").glob("*.json"))]
        phases = {record["stage"]: record["seconds"] for record in records}
        phases[TRACK] = time.time() - middle
        facts.write_text(
            json.dumps(
                {
                    "root": str(target),
                    "phases": phases,
                    "startup": records[0]["start"] - start,
                    "seconds": middle - start,
                    "lock": (target / "dvc.lock").read_text(),
                    "results": results(target),
                    "mlflow": mlflow(target),
                }
            )
        )
        print(
            f"undisturbed: {middle - start:.0f} s and {phases[TRACK]:.0f} s of tracking; {mlflow(target)}", flush=True
        )
    return dict(json.loads(facts.read_text()))


def clone(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        copy = target / name
        if not os.path.lexists(ROOT / name):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy, follow_symlinks=False)
    settings = target / "experiments" / "digits.yaml"
    text = settings.read_text()
    for old, new in SMALL.items():
        assert old in text, f"experiments/digits.yaml has no {old!r}"
        text = text.replace(old, new)
    settings.write_text(text)
    (target / "dvc.lock").unlink()
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "small"]):
        subprocess.run(["git", "-c", "user.name=f", "-c", "user.email=f@example.org", *words], cwd=target, check=True)


def kill_once(undisturbed: dict[str, Any], target: Path, chance: random.Random, whole: bool) -> dict[str, Any]:
    """One kill and the recovery; `wrong` says what differs from the undisturbed run, and is empty where nothing does."""
    phases = undisturbed["phases"]
    phase = chance.choices(list(phases), [seconds + 2.0 for seconds in phases.values()])[0]
    moment = chance.uniform(0.0, undisturbed["startup"] + phases[phase] + 3.0)
    names = list(phases)
    rewind(Path(undisturbed["root"]), target, names[names.index(phase) :], whole)
    process = subprocess.Popen(
        ["sh", "-c", "quee run && quee track"],
        cwd=target, env=environment(target), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(moment)
    victims = [p for p in psutil.process_iter(["cmdline", "cwd"]) if p.info["cwd"] == str(target)]
    killed_in = at_work([p.info["cmdline"] or [] for p in victims])
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        killed_in = "nothing (had ended)"
    process.wait()
    wrong = []
    if psutil.wait_procs(victims, timeout=10)[1]:
        wrong.append("a process outlived the kill")
    if not whole:
        give_back_run_cache(Path(undisturbed["root"]), target, names[names.index(phase) + 1 :])
    said = []
    for verb in ("run", "track"):
        done = subprocess.run(["quee", verb], cwd=target, env=environment(target), capture_output=True, text=True,
                              check=False)  # fmt: skip
        if done.returncode or "Traceback" in done.stderr:
            wrong.append(f"quee {verb} ended with {done.returncode}: {done.stderr[-400:]}")
        said += [
            line for line in done.stderr.splitlines() if "killed" in line or "damaged" in line or "restored" in line
        ]
    if not wrong:
        if (target / "dvc.lock").read_text() != undisturbed["lock"]:
            wrong.append("dvc.lock differs")
        if (found := results(target)) != undisturbed["results"]:
            wrong.append(f"differ: {sorted(set(found.items()) ^ set(undisturbed['results'].items()))[:4]}")
        if (held := mlflow(target)) != undisturbed["mlflow"]:
            wrong.append(f"MLflow: {held}")
    if not wrong:
        shutil.rmtree(target)
    return {"phase": phase, "moment": moment, "killed_in": killed_in, "said": said, "wrong": "; ".join(wrong)}


def rewind(source: Path, target: Path, stages: list[str], whole: bool) -> None:
    """A copy of the undisturbed project as it was before some stages."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns", "logs"))
    lock = yaml.safe_load((target / "dvc.lock").read_text())
    lock["stages"] = {key: entry for key, entry in lock["stages"].items() if key.partition("@")[0] not in stages}
    (target / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    shutil.rmtree(target / ".quee" / "last-good", ignore_errors=True)
    for stage in stages:
        shutil.rmtree(target / "artifacts" / "digits" / stage, ignore_errors=True)
    if not lock["stages"]:
        (target / "dvc.lock").unlink()
    for stage, file in run_cache(target):
        if stage in stages:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()


def give_back_run_cache(source: Path, target: Path, stages: list[str]) -> None:
    for stage, file in run_cache(source):
        copy = target / file.relative_to(source)
        if stage in stages and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)


def run_cache(root: Path) -> list[tuple[str, Path]]:
    """Stage and file of each entry of DVC's run cache."""
    files = [file for file in (root / ".dvc" / "cache" / "runs").rglob("*") if file.is_file()]
    commands = [(yaml.safe_load(file.read_text())["cmd"], file) for file in files]
    return [(command.split()[2].removeprefix("tasks."), file) for command, file in commands]


def at_work(commands: list[list[str]]) -> str:
    """What was running, from the processes' command lines."""
    for command in commands:
        if (
            len(command) > 2
            and command[1] == "-m"
            and command[2].startswith("tasks.")
            and "dvc.child" not in command[2]
        ):
            return command[2].removeprefix("tasks.")
    words = [word for command in commands for word in command]
    if "tasks.dvc.child" in words:
        return "DVC"
    return "quee track" if "track" in words else "quee run" if words else "nothing (had ended)"


def results(root: Path) -> dict[str, str]:
    """SHA-256 of every file under artifacts/."""
    import hashlib

    files = [file for file in (root / "artifacts").rglob("*") if file.is_file()]
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def mlflow(root: Path) -> str:
    """What MLflow holds: numbers of runs, distinct results, complete runs, and model versions."""
    import sqlite3

    held = sqlite3.connect(root / "mlflow.db")
    tags = dict(held.execute("select run_uuid, value from tags where key = 'quee.digest'").fetchall())
    complete = held.execute("select count(*) from tags where key = 'quee.complete' and value = 'true'").fetchone()[0]
    runs = held.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()[0]
    versions = held.execute("select count(*) from model_versions").fetchone()[0]
    held.close()
    return f"{runs} runs of {len(set(tags.values()))} results, {complete} complete, {versions} model version"


def environment(root: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **ENVIRONMENT, "PATH": path, "PYTHONPATH": str(root)}


def command(root: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
