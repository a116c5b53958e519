from pathlib import Path

import pytest

from quee.errors import IntegrityError, UsageError
from tasks.shift import load, shift, table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": ["fog"]}, "unknown shift 'fog'"), ({"severity": [6]}, "--severity 6: give 1 to 5")],
)
def test_unknown_shifts_are_refused_before_anything_is_read(options: dict[str, list[object]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shift("nothing", **options)  # type: ignore[arg-type]


def test_an_experiment_without_a_bundle_says_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    with pytest.raises(IntegrityError, match="`quee run digits` makes it"):
        load(tmp_path, "digits", 10, 0)


def test_the_table_has_a_line_per_row_with_the_gap_and_its_interval() -> None:
    row = {
        "kind": "noise",
        "severity": 3,
        "budget": 0.2,
        "cost": 0.25,
        "held_cost": 0.201,
        "accuracy": 0.9,
        "static_accuracy": 0.95,
    }
    head, line = table([{**row, "gap": -0.02, "gap_low": -0.03, "gap_high": -0.01}]).splitlines()
    assert head.split()[:5] == ["shift", "severity", "budget", "cost", "held"]
    assert line.split()[3:5] == ["0.250", "0.201"]
    assert line.endswith("-2.0 [-3.0, -1.0]")
