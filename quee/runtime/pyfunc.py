"""The registered model: MLflow loads this file as code and the bundle as an artifact."""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class QueeModel(PythonModel):  # type: ignore[misc]
    """uint8 images (N, H, W, C) to prediction, label, path and cost; params: budget."""

    def load_context(self, context: Any) -> None:
        from quee.runtime import load_bundle

        self.classifier = load_bundle(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        budget = (params or {}).get("budget")
        routed = self.classifier.route(np.asarray(model_input, dtype=np.uint8), budget=budget)
        labels = [self.classifier.classes[index] for index in routed.label]
        return pd.DataFrame({"prediction": routed.label, "label": labels, "path": routed.path, "cost": routed.cost})


set_model(QueeModel())
