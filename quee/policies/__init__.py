"""Policies choose the next step at a gate; they act only inside the considered tree, and know of cost only what `Costs` says.

Importing this package imports nothing: a stage depends on the policies it uses, not on all there are.
"""
