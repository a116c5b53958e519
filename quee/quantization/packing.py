"""Weights packed at their bit width."""

import numpy as np

from quee.errors import IntegrityError


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Signed integers of `bits` bits, any shape, as bytes (⌈size · bits / 8⌉,): offset binary, least bit first."""
    shifted = (integers.astype(np.int16).ravel() + (1 << (bits - 1))).astype(np.uint8)
    planes = np.unpackbits(shifted[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(planes.ravel(), bitorder="little")


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...], name: str = "weight") -> np.ndarray:
    """The int8 integers of that shape; raises IntegrityError when the bytes are of another number."""
    size = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.shape != (-(-size * bits // 8),):
        raise IntegrityError(f"{name}: {packed.shape} bytes do not hold {shape} weights of {bits} bits")
    planes = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    values = np.packbits(planes, axis=1, bitorder="little")[:, 0].astype(np.int16) - (1 << (bits - 1))
    return values.astype(np.int8).reshape(shape)
