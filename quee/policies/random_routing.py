"""Random routing: every path gets the same share of samples as under a policy, but samples are drawn at random."""

import numpy as np

from quee.policies.sweep import Setting, Sweep


def random_routing(setting: Setting, like: Sweep) -> Sweep:
    """`random_routing` at the usage of `like` on validation: expected errors, and costs of the paths without decisions."""
    assert like.nodes is not None
    nodes, count = like.nodes["validation"], len(setting.tree)
    usage = np.stack([np.bincount(column, minlength=count) for column in nodes.T], axis=1) / len(nodes)  # (N, P)
    errors = {split: setting.errors(split).astype(np.float64) @ usage for split in setting.splits}
    cost = setting.followed @ usage
    costs = {split: np.broadcast_to(cost, (len(errors[split]), len(cost))) for split in setting.splits}
    return Sweep("random_routing", "lambda", like.values, errors, costs)
