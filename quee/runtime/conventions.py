"""What scikit-learn asks of a fitted classifier, without importing it: that takes seconds, and executing needs none of it.

Its functions ask for methods, not for base classes: `clone` and `GridSearchCV` for `get_params`, `is_classifier` for
tags, `check_is_fitted` for `__sklearn_is_fitted__`.
"""

from copy import copy
from inspect import signature
from typing import Any, Self

import numpy as np

from quee.errors import UsageError


class FittedClassifier:
    """A classifier fitted by other means; its parameters are what `__init__` takes, under the same names."""

    _beside: tuple[str, ...] = ()
    """Attributes that are given after `__init__` and hold whatever the parameters are."""
    classes: list[str]
    """Names, in the order of the indices that `predict` answers with."""
    _estimator_type = "classifier"  # what scikit-learn looked at before 1.6

    def fit(self, images: Any = None, labels: Any = None) -> Self:
        """Changes nothing: a classifier is fitted by `quee.fit`. scikit-learn asks for the method."""
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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What `__init__` took, by name."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """The same classifier with other parameters; raises ValueError naming one that it does not have."""
        own = self.get_params()
        if unknown := sorted(set(parameters) - set(own)):
            raise ValueError(f"{type(self).__name__} has no parameter {unknown[0]!r}; valid: {', '.join(own)}")
        if parameters:
            beside = {name: getattr(self, name) for name in self._beside}
            type(self).__init__(self, **{**own, **parameters})
            vars(self).update(beside)
        return self

    def __sklearn_clone__(self) -> Self:
        """Another with the same networks, which are not copied: it is as fitted as this one."""
        return copy(self)

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
