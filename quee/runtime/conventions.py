"""scikit-learn's conventions for a fitted classifier, without importing scikit-learn, which takes seconds.

`is_classifier` reads tags, `check_is_fitted` calls `__sklearn_is_fitted__`, scorers call `predict` and `predict_proba`.
"""

from typing import Any, Self

import numpy as np

from quee.errors import UsageError


class FittedClassifier:
    """A classifier that was fitted elsewhere; `fit` changes nothing."""

    classes: list[str]
    """Names in the order of the indices that `predict` returns."""
    _estimator_type = "classifier"  # read by scikit-learn before 1.6

    def fit(self, images: Any = None, labels: Any = None) -> Self:
        """Changes nothing, because `quee.fit` fits classifiers; scikit-learn demands the method."""
        return self

    def score(self, images: Any, labels: Any, sample_weight: Any = None, *, pixels: str = "uint8") -> float:
        """Mean accuracy on images with labels (n,), class indices or names. Raises UsageError for other labels."""
        found, given = self.predict(images, pixels=pixels), self._indices(np.asarray(labels))
        if found.shape != given.shape:
            raise UsageError(f"{len(found)} images, but labels of shape {given.shape}")
        return float(np.average(found == given, weights=sample_weight))

    def _indices(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind in "iu":
            return labels
        known = {name: index for index, name in enumerate(self.classes)}
        if strange := sorted({repr(label) for label in labels.ravel().tolist() if label not in known}):
            raise UsageError(f"label {strange[0]} is neither a class index nor one of the class names")
        return np.array([known[name] for name in labels.ravel().tolist()]).reshape(labels.shape)

    def predict(self, images: Any, *, pixels: str = "uint8") -> np.ndarray:
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
            requires_fit=False,
        )
