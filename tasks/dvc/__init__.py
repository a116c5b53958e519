"""The one place that talks to DVC."""
