"""Ratios and shares as text, and the valid range of each number; impossible numbers are not shown."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DASH = "–"
"""Shown in place of a number that is missing or impossible."""
VANISHING = 1e-4
"""Differences of accuracies below a hundredth of a point, the last digit of tables, count as zero."""
ROUNDING = 1e-9
SHARE, DIFFERENCE, AMOUNT, GAP = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-1 / VANISHING, 1.0)
RANGES: tuple[tuple[str, tuple[float, float]], ...] = (
    (r"(^|\.)oracle_gap_closed\.|(^|\.)gap_closed$", GAP),
    (
        r"(^|\.)(behind_best|differences?(_vs_\w+)?|gains|gain|accuracy_change|quality_rank_correlation)(\.|$)",
        DIFFERENCE,
    ),
    (r"(^|\.)cost_at_\w*|(^|\.)(\w+_)?cost(_low|_high)?$|(^|\.)(budget|bitflops|bytes|macs|samples)$", AMOUNT),
    (r"(^|\.)(\w+_)?(accuracy|auc|auc_by_seed)(_at_budget|_low|_high)?(\.|$)|(^|\.)resplits\.auc\.", SHARE),
    (
        r"(^|\.)(agreement|reached|share|ece\w*|rmse|(exit_|gain_)?auroc(_confidence)?|aurc|p_label|target|low|high|band_low|band_high)(\.|$)",
        SHARE,
    ),
)
"""Patterns of dotted names with the range of their numbers; the first pattern that matches decides."""


def ratio(numerator: float, denominator: float, least: float = 0.0) -> float | None:
    """The quotient; None where the denominator is not above `least` or the quotient is not finite."""
    if not denominator > least:
        return None
    found = numerator / denominator
    return found if math.isfinite(found) else None


def figure(share: Any, digits: int = 2, low: float = 0.0, high: float = 1.0, sign: bool = False) -> str:
    """A share in percent, without the unit; a dash for None and for numbers outside of [low, high]."""
    if not isinstance(share, int | float) or not low - ROUNDING <= share <= high + ROUNDING:
        return DASH
    return f"{100 * share:{'+' if sign else ''}.{digits}f}"


def percent(share: Any, digits: int = 1, low: float = 0.0, high: float = 1.0) -> str:
    """The same with its unit and a typographic minus."""
    text = figure(share, digits, low, high)
    return text if text == DASH else f"{text} %".replace("-", "−")


def difference(found: Mapping[str, float], digits: int = 2) -> str:
    """A difference of shares in points, with its interval: `+0.27 [+0.11, +0.43]`."""
    mean, low, high = (figure(found[side], digits, *DIFFERENCE, sign=True) for side in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def range_of(name: str) -> tuple[float, float] | None:
    """The range of numbers of that dotted name; None where every finite number is possible."""
    return next((valid for pattern, valid in RANGES if re.search(pattern, name)), None)


def impossible(content: Any, name: str = "") -> Iterator[str]:
    """`NAME = VALUE, valid: …` for every number in nested mappings and lists that is outside its range."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from impossible(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for value in content:
            yield from impossible(value, name)
    elif isinstance(content, float | int) and not isinstance(content, bool):
        low, high = range_of(name) or (-math.inf, math.inf)
        if not math.isfinite(content) or not low - ROUNDING <= content <= high + ROUNDING:
            yield f"{name} = {content:g}, valid: {low:g} to {high:g}"
