"""Policies choose the next step at a gate; they act only inside the cached tree.

A policy knows of cost only what `Costs` says.
"""

from quee.policies.base import EXIT, Costs, Limit, Policy, Table, simulate, simulate_behind
from quee.policies.fitted_q import FittedQ, fit_fitted_q
from quee.policies.oracle import oracle_nodes
from quee.policies.plan import Plan

__all__ = [
    "EXIT", "Costs", "FittedQ", "Limit", "Plan", "Policy", "Table", "fit_fitted_q", "oracle_nodes", "simulate",
    "simulate_behind",
]  # fmt: skip
