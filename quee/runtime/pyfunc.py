"""The registered model: MLflow loads this file as code and the bundle as an artifact."""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class QueeModel(PythonModel):  # type: ignore[misc]
    """uint8 images (N, H, W, C) to prediction, label, cost, and path unless `return_path` is false.

    Params: `budget` (mean cost, the bundle's own by default) or `trade_off` (price of a unit of cost), `return_path`.
    """

    def load_context(self, context: Any) -> None:
        from quee.runtime import load_bundle

        self.classifier = load_bundle(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with_path = given.pop("return_path", True)
        images = np.asarray(model_input)
        if (
            images.dtype != np.uint8
            and images.dtype.kind in "iu"
            and images.size
            and 0 <= images.min() <= images.max() < 256
        ):
            images = images.astype(np.uint8)  # JSON's whole numbers
        routed = self.classifier.route(images, **given)
        columns = {
            "prediction": routed.label,
            "label": [self.classifier.classes[index] for index in routed.label],
            "path": routed.path,
            "cost": routed.cost,
        }
        return pd.DataFrame({name: column for name, column in columns.items() if with_path or name != "path"})


set_model(QueeModel())
