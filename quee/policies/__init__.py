"""Policies choose the next step at a gate. They act only inside the considered tree and take all costs from `Costs`.

Importing this package imports nothing, so that a stage depends only on the policies it uses.
"""
