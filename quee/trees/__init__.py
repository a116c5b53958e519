"""Trees by design: which precisions a tree has, which of them have bits by layer, and which paths are considered.

`candidates` measures each precision alone, with an exit at every gate, `choice` keeps the few that give the best curve
together, and `settled` is the result, which all later stages read.
"""
