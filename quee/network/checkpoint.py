"""The state of an unfinished training run, as safetensors: network, optimizer, average of the weights, history."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import IntegrityError
from quee.work.io import read_metadata, read_tensors, write_tensors

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The file of a run; `key` covers the settings and libraries that decide the run."""

    path: Path
    key: str

    def write(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Tensor] | None,
        done: int,
        history: list[dict[str, float]],
    ) -> None:
        """Replace the file, whole or not at all; `done` is the number of stretches that are finished."""
        arrays = {f"model.{name}": value for name, value in model.state_dict().items()}
        arrays |= {f"average.{name}": value for name, value in (average or {}).items()}
        for index, state in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None}
        facts = {"key": self.key, "done": str(done), "history": json.dumps(history)}
        write_tensors(self.path, {name: value.detach().cpu().numpy() for name, value in arrays.items()}, facts)

    def read(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor] | None
    ) -> tuple[int, list[dict[str, float]]]:
        """Load the state in place; returns the number of finished stretches and the history: none where there is no file.

        A file of other settings or libraries, or a damaged one, is not used; a message is printed.
        """
        if not self.path.is_file():
            return 0, []
        try:
            facts, arrays = read_metadata(self.path), read_tensors(self.path)
        except IntegrityError as error:
            print(f"{error}: training begins anew", file=sys.stderr)
            return 0, []
        if facts.get("key") != self.key:
            print(f"{self.path} was begun under other settings or libraries: training begins anew", file=sys.stderr)
            return 0, []
        model.load_state_dict(_below("model.", arrays))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer.", arrays).items():
            index, _, kind = name.partition(".")
            states.setdefault(int(index), {})[kind] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, value in _below("average.", arrays).items():
            if average is not None:
                average[name].copy_(value)
        return int(facts["done"]), json.loads(facts["history"])


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value.copy())  # training writes into it
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
