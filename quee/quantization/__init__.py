"""Post-training quantization: `quantize_(model, config, calibration_batches)` of `calibration`.

Products have integer-valued float32 operands and are exact, so emulation equals integer arithmetic for any batch and any
number of threads.

In the order of dependence: `folding` takes BatchNorm into the convolutions, `layers` executes, `grids` and `weights` choose
grids and integers, `units` walks a network, `learned` trains rounding, `calibration` combines these, `mixed` gives layers
bits of their own, and `calibration_shards` runs the last two on many workers.
"""
