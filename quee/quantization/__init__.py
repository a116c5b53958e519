"""Post-training quantization: `quantize_(model, config, calibration_batches)` of `calibration`.

Everything is executed exactly: products of integer-valued float32 operands, so that emulation equals integer
arithmetic whatever the batch or the number of threads.

In the order of dependence: `folding` takes BatchNorm into the convolutions, `layers` executes, `grids` and `weights` choose
what it is executed with, `units` walks a network, `learned` trains rounding, `calibration` does all of it, `mixed` gives
layers bits of their own, and `calibration_shards` runs the last two on many workers.
"""
