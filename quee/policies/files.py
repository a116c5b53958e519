"""Policies on disk, in folders of stages and in bundles: `predictors.safetensors` and `POLICY.safetensors`."""

from pathlib import Path

import numpy as np

from quee.errors import IntegrityError
from quee.policies.base import Basis, Router
from quee.policies.networks import Predictors
from quee.policies.registry import deployable, learned
from quee.work.io import read_tensors, write_tensors

PREDICTORS = "predictors.safetensors"


def read_predictors(folder: Path) -> Predictors:
    return Predictors.from_arrays(read_tensors(folder / PREDICTORS))


def write_policy(folder: Path, name: str, policy: Router) -> None:
    """Writes nothing for a policy that needs only the predictors."""
    if arrays := policy.arrays():
        write_tensors(folder / _file(name), arrays)


def read_policy(folder: Path, name: str, basis: Basis) -> Router:
    """Read the policy of a deployable method; raises IntegrityError where its arrays do not fit the basis."""
    path = folder / _file(name)
    return policy_of(name, basis, read_tensors(path) if path.is_file() else {}, str(path))


def policy_of(name: str, basis: Basis, arrays: dict[str, np.ndarray], source: str) -> Router:
    """The policy of a deployable method from its arrays; raises IntegrityError naming `source` where these do not fit."""
    try:
        policy = deployable()[name].kind.load(basis, arrays)
    except (KeyError, IndexError) as error:
        raise IntegrityError(f"{source}: an array of policy {name} is missing or of another shape: {error}") from None
    if fault := policy.fault():
        raise IntegrityError(f"{source}: {fault}")
    return policy


def read_learned(folder: Path, basis: Basis) -> dict[str, Router]:
    """Read the learned policies of stage `policies`, by name."""
    return {method.name: read_policy(folder, method.name, basis) for method in learned()}


def _file(name: str) -> str:
    return f"{name}.safetensors"
