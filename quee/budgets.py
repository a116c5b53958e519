"""The rule of a budget, for every place that takes one: Python, commands, the server, experiments' settings."""

LARGEST = 100.0
"""Most that a budget or a limit may be, in units of the static w8a8 network.

The float network costs 16, and no path much more than it. A larger number is meant in another unit, such as operations.
"""
TOO_LARGE = f"give at most {LARGEST:g}: the unit is the static w8a8 network, and the float network costs 16"
"""What is said of a larger one."""
