"""Names of experiments, which lists and messages need without the settings themselves."""

from pathlib import Path


def experiment_names(folder: Path = Path("experiments")) -> list[str]:
    """The experiments with a YAML file in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
