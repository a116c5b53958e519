"""Nodes of ONNX graphs."""

from typing import Any


def needed(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """The nodes that compute the wanted values, in their order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted = wanted | set(node.input)
    return kept[::-1]
