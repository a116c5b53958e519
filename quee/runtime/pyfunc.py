"""The registered model: MLflow loads this file as code and the bundle as an artifact."""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class QueeModel(PythonModel):  # type: ignore[misc]
    """Images (N, H, W) or (N, H, W, C) to label (index of the class), class (its name), cost and path.

    `return_path` false leaves the path out.

    Params: one of `budget` (ceiling of the mean cost, the bundle's own by default), `accuracy_loss` (points of accuracy that
    may be lost to the float network; `certified`) and `trade_off` (price of a unit of cost); `max_cost`, `return_path`, and
    `pixels`: `uint8`, or `unit` for floats from 0 to 1.
    """

    def load_context(self, context: Any) -> None:
        from quee.runtime import load_bundle

        self.classifier = load_bundle(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from quee.errors import UsageError
        from quee.runtime.pixels import numbers

        given = {name: value for name, value in (params or {}).items() if value is not None}
        with_path, pixels = given.pop("return_path", True), given.pop("pixels", "uint8")
        try:
            # The signature passes JSON on unchanged, as objects; arrays from Python keep their type.
            images = np.asanyarray(model_input)
            if images.dtype == object:
                images = numbers(images, "images", pixels)
            routed = self.classifier.route(images, pixels=pixels, **given)
        except UsageError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        columns = {
            "label": routed.label,
            "class": [self.classifier.classes[index] for index in routed.label],
            "path": routed.path,
            "cost": routed.cost,
        }
        return pd.DataFrame({name: column for name, column in columns.items() if with_path or name != "path"})


set_model(QueeModel())
