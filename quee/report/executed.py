"""The report's section on executed speed, from measurements of benchmarks/runtime.py."""

from html import escape
from typing import Any

from quee.report.markup import table
from quee.work.percentages import percent


def executed_section(measured: dict[str, Any]) -> str:
    """Accuracy, images per second, p50 and p95, and bytes; an empty string without measurements."""
    found = measured.get("fixture")
    if not found:
        return ""
    rows = found["rows"]
    batches = sorted({int(key.rpartition("_")[2]) for row in rows.values() for key in row if "per_second" in key})
    head = [
        "",
        "accuracy",
        *(f"images/s, batch {batch}" for batch in batches),
        "p50, ms",
        "p95, ms",
        "MB",
        "MB in memory",
    ]

    def line(name: str) -> list[str]:
        row = rows[name]
        accuracy = percent(row["accuracy"], 2)
        speeds = [f"{row[f'images_per_second_{batch}']:,.0f}" for batch in batches]
        times = [f"{row[key]:.2f}" if key in row else "–" for key in ("p50_ms", "p95_ms")]
        sizes = [f"{row[key] / 1e6:.1f}" if row.get(key) else "–" for key in ("bytes", "resident")]
        return [escape(name), accuracy if row["reaches"] else f"<small>{accuracy}</small>", *speeds, *times, *sizes]

    order = sorted(rows, key=lambda name: (not name.startswith("QuEE"), not rows[name]["reaches"], name))

    def ratios(key: str) -> str:
        known = [batch for batch in batches if f"{key}_{batch}" in found]
        return ", ".join(f"{found[f'{key}_{batch}']:.2f} at batch {batch}" for batch in known) or "–"

    return (
        f"<p>Measured on {escape(measured['machine'])} with {measured['threads']} thread(s), not simulated, "
        f"in {'CPU' if measured.get('clock') == 'cpu' else 'wall-clock'} seconds; milliseconds "
        "are those of one call at batch 1. Small accuracies are below the target, "
        f"{percent(found['target'], 2)} (the float network's less half a point). "
        "QuEE's images per second over those of the fastest static deployment that reaches it and that the rule by which "
        f"QuEE's budget was chosen on validation allows: {ratios('ratio')}; over the fastest first part of the network with "
        f"its exit head, allowed or not: {ratios('ratio_part')}. "
        f"What QuEE takes over the sum of its segments run alone, at batch 64: {found['over_parts']:.3f}.</p>"
        + table(head, [line(name) for name in order])
    )
