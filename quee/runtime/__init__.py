"""The deployable artefact: bundles, and the classifier that routes real images."""

from quee.runtime.bundle import load_bundle
from quee.runtime.classifier import AdaptiveClassifier, Routed
from quee.runtime.operating import Options

__all__ = ["AdaptiveClassifier", "Options", "Routed", "load_bundle"]
