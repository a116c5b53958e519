"""Evaluation from the cache: sweeps, curves, budgets, bootstrap. No network runs."""
