"""Experiments whose data changed since their last result, by the digests in `.dvc` files and in `dvc.lock`."""

from collections.abc import Callable
from pathlib import Path

import yaml

from quee.errors import IntegrityError
from tasks.dvc.experiments import data_path
from tasks.dvc.inputs import NotPulledError, refuse_missing
from tasks.dvc.lock import dvc_digest, read_lock


def changed_data(root: Path, names: list[str]) -> dict[str, str]:
    """Experiments whose data differ or that have no result yet, each with the reason. Reads only a few small files."""
    found = {}
    for name in names:
        pointer, now = recorded_digest(root, name)
        then = last_digest(root, name)
        if now != then:
            found[name] = f"{pointer}: {then or 'no result yet'} → {now}"
    return found


def recorded_digest(root: Path, experiment: str) -> tuple[str, str]:
    """The `.dvc` file of an experiment's data set and the digest in it; raises IntegrityError where there is none."""
    folder = _folder(root, experiment)
    for pointer, path in refuse_missing(root, [experiment]).items():
        if path == folder:
            content = yaml.safe_load((root / pointer).read_text(encoding="utf-8"))
            for out in content["outs"]:
                if ((root / pointer).parent / out["path"]).resolve() == (root / folder).resolve():
                    return pointer, str(out["md5"])
    raise IntegrityError(
        f"{folder} is not tracked: `dvc add {folder}` writes the .dvc file that its changes are seen by"
    )


def last_digest(root: Path, experiment: str) -> str | None:
    """Digest of the data behind the experiment's last result; None where the result is from another data set."""
    result = read_lock(root).get(experiment)
    prepare = result.stages.get("prepare") if result else None
    return prepare.deps.get(_folder(root, experiment).as_posix()) if prepare else None


def fetch_changed(root: Path, experiment: str, notify: Callable[[str], None]) -> None:
    """Replace the data of the last result by the data that the `.dvc` file now names.

    Data that are neither of the two may be somebody's work: they stay, and the run refuses them.
    """
    from tasks.dvc.process import run_dvc

    folder = _folder(root, experiment)
    if not (root / folder).is_dir() or dvc_digest(root / folder) != last_digest(root, experiment):
        return
    pointer, _ = recorded_digest(root, experiment)
    notify(f"fetching what {pointer} names")
    done = run_dvc(root, "pull", "--force", pointer)
    if done.status:
        raise NotPulledError(f"what {pointer} names is not to be pulled from a remote: {done.reason}", done.may_pass)


def _folder(root: Path, experiment: str) -> Path:
    from quee.settings.experiment import load_experiment

    return data_path(load_experiment(experiment, root / "experiments"))
