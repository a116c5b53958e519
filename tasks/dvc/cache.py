"""Checks DVC's cache against its digests, because DVC trusts write-protected files."""

import hashlib
import json
from pathlib import Path

import yaml

from tasks.dvc.plan import PIPELINE, opened


def remove_damaged(root: Path, name: str, file: str = PIPELINE) -> list[Path]:
    """Remove damaged files of a stage's result from DVC's cache; returns the removed files."""
    entry = yaml.safe_load((root / file).with_suffix(".lock").read_text(encoding="utf-8"))["stages"][name]
    with opened(root) as repo:
        objects = [(Path(repo.cache.local.oid_to_path(out["md5"])), out["md5"]) for out in entry["outs"]]
        for path, digest in list(objects):
            if digest.endswith(".dir") and _is(path, digest):
                listed = json.loads(path.read_bytes())
                objects += [(Path(repo.cache.local.oid_to_path(file["md5"])), file["md5"]) for file in listed]
    damaged = [path for path, digest in objects if path.is_file() and not _is(path, digest)]
    for path in damaged:
        path.unlink()
    return damaged


def _is(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == digest.removesuffix(".dir")
    except FileNotFoundError:
        return False
