"""The deployable artefact: bundles, and the classifier that routes real images."""

from quee.runtime.bundle import load_bundle, write_bundle
from quee.runtime.classifier import AdaptiveClassifier, Routed

__all__ = ["AdaptiveClassifier", "Routed", "load_bundle", "write_bundle"]
