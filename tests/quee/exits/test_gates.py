"""The choice of gates by the curve of early exits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quee.exits import gates as chooser
from quee.exits.gates import Curves, Exits, block_costs, chosen_of, evenly_spaced
from quee.network.architectures import create_backbone


def exits(accuracy: list[float], samples: int = 600, seed: int = 0, head: float = 0.001) -> Exits:
    """Blocks of equal cost with so accurate probes, which are sure where the sample is easy for them."""
    random, blocks = np.random.default_rng(seed), len(accuracy)
    hardness = random.uniform(size=(samples, 1))
    wrong = hardness > np.array(accuracy)
    confidence = np.clip(1 - hardness + 0.4 * (np.array(accuracy) - 0.5) + random.normal(0, 0.05, wrong.shape), 0, 1)
    cost = np.arange(1, blocks + 1) / blocks * (1 - head)
    return Exits(confidence, wrong, cost, np.full(blocks, head), random.uniform(size=samples) > 0.1)


def curve_by_hand(found: Exits, gates: tuple[int, ...], budgets: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Accuracy at the budgets, sample by sample and threshold by threshold."""
    costs, accuracies = [0.0], [1 - found.floor.mean()]
    for threshold in thresholds:
        spent, right = [], []
        for sample in range(len(found.wrong)):
            paid = 0.0
            for gate in gates:
                paid += found.head[gate - 1]
                if gate == gates[-1] or found.confidence[sample, gate - 1] >= threshold:
                    spent.append(paid + found.cost[gate - 1])
                    right.append(not found.wrong[sample, gate - 1])
                    break
        costs.append(float(np.mean(spent)))
        accuracies.append(float(np.mean(right)))
    return np.interp(budgets, costs, accuracies)


@pytest.mark.parametrize("gates", [(5,), (2, 5), (1, 3, 4, 5)])
def test_the_area_is_that_of_a_cascade_with_one_threshold(gates: tuple[int, ...]) -> None:
    found = exits([0.5, 0.6, 0.75, 0.8, 0.9], samples=61)
    curves = Curves(found)
    by_hand = curve_by_hand(found, gates, curves.budgets, curves.thresholds).mean()
    assert curves.auc(gates) == pytest.approx(by_hand, abs=1e-12)
    assert 1 - curves.errors(gates).mean() == pytest.approx(by_hand, abs=1e-12)


def test_a_block_behind_which_accuracy_jumps_becomes_a_gate() -> None:
    choice = chosen_of(exits([0.2, 0.2, 0.2, 0.2, 0.85, 0.86, 0.87, 0.9]), (4, 8))
    assert choice.gates == (5, 8)
    record = choice.record
    assert record["reason"] == "better than evenly spaced gates beyond doubt"
    assert record["chosen"] == record["best"] and record["chosen"]["auc"] > record["evenly_spaced"]["auc"]
    assert record["difference"]["low"] > 0
    assert record["runner_up"]["gates"] not in ([5, 8], None)
    assert [row["block"] for row in record["blocks"]] == list(range(1, 9))


def test_evenly_spaced_gates_are_kept_where_others_look_better_by_chance() -> None:
    """Two blocks that differ in noise alone, the second of which is evenly spaced."""
    looked_better = 0
    for seed in range(12):
        found = exits([0.7, 0.7, 0.9], samples=200, seed=seed)
        choice = chosen_of(replace(found, cost=np.array([0.5, 0.5, 0.999])), (2, 3))
        looked_better += choice.record["best"]["gates"] == [1, 3]
        assert choice.gates == (2, 3)
        assert choice.record["reason"].startswith("evenly spaced")
    assert looked_better > 2


def test_a_single_gate_is_the_end() -> None:
    assert chosen_of(exits([0.5, 0.9]), (2,)).gates == (2,)
    assert chosen_of(exits([0.9]), (1,)).gates == (1,)


def test_exchanges_find_what_trying_all_sets_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exits([0.3, 0.31, 0.5, 0.52, 0.53, 0.7, 0.71, 0.72, 0.8, 0.9])
    whole = chosen_of(found, (3, 5, 8, 10))
    monkeypatch.setattr(chooser, "TRIED", 0)
    some = chosen_of(found, (3, 5, 8, 10))
    assert some.gates == whole.gates
    assert some.record["tried"] < whole.record["tried"] == 84
    assert chosen_of(found, (3, 5, 8, 10)).record == some.record


def test_costs_are_those_of_blocks_with_the_stem_and_of_linear_heads() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", (2, 8))
    cost, head = block_costs(backbone)
    assert len(cost) == len(head) == 8
    assert cost[-1] + head[-1] == pytest.approx(1)
    assert np.allclose(np.diff(cost), cost[1] - cost[0])  # blocks are alike
    assert cost[0] > cost[1] - cost[0]  # the stem
    assert evenly_spaced(backbone, 4) == (2, 4, 6, 8)


def test_products_without_a_format_yet_cost_no_more_than_the_unit_says() -> None:
    backbone = create_backbone("t2t_vit_7", (7,), img_size=32, num_classes=10)
    cost, head = block_costs(backbone)
    assert cost[-1] + head[-1] == pytest.approx(1)
