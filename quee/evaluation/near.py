"""How near to the float network results are asked to be, for every place that says what it costs."""

DROPS = (0.5, 1.0)
"""Points of accuracy below the float network."""
