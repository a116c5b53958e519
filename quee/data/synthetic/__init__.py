"""Data sets that are drawn, not collected: what an image of each is drawn from.

Every image has random bits of its own, and is computed in additions, multiplications, divisions and comparisons of float64,
one array operation at a time. IEEE 754 defines each of them to the last bit, so pixels are the same on every CPU, in any
batch and in any number of processes. NumPy's own exp, sin and sum are not used: their last bits differ between CPUs.
"""
