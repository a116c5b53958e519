"""`quantize_`: observe a float model on calibration batches, choose grids, replace its layers.

Units (stem, blocks, head) are calibrated in the order of execution, and so are the layers within a unit. Each layer is
calibrated on the outputs of the quantized layers before it.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quee.errors import QueeError
from quee.evenly import evenly
from quee.network.base import SegmentedBackbone
from quee.precision import Precision
from quee.quantization.folding import fold_, folded
from quee.quantization.format_choice import with_formats
from quee.quantization.formats import FLOAT, RoundedMatMul, float_products, format_of, round_products
from quee.quantization.grids import search_quantizer, thinned
from quee.quantization.layers import (
    QUANTIZED,
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedMatMul,
    layout,
    quantizable,
    quantized_layer,
    resolved,
)
from quee.quantization.learned import HELD_OUT, norms_of, reconstruct
from quee.quantization.units import Sources, Unit, observe, run_unit, sources, units_of
from quee.quantization.weights import confirmed_ridge, quantize_weight, round_compensated
from quee.settings.quantize import QuantizationConfig
from quee.work.io import packed_tensors, unpacked_tensors
from quee.work.progress import progress
from quee.work.store import Store

PLAIN_BITS = 8
"""With this many activation bits or more, only grids that engines execute are used."""


class Calibrator:
    """Quantizes a copy of a float network, with BatchNorm folded, unit by unit; `network` is the copy."""

    def __init__(
        self,
        model: nn.Module,
        config: QuantizationConfig,
        partial: Path | None = None,
    ) -> None:
        """`partial` is a folder that keeps finished units for a later call."""
        if config.precision.is_float:
            raise QueeError(f"quantize_ makes integer precisions such as w8a8, not {config.precision}")
        self.float, self.config = folded(model), config
        self.network = round_products(deepcopy(self.float), format_of(config) if float_products(model) else FLOAT)
        self.units = units_of(self.float)
        self.norms: set[str] = set()
        """LayerNorms that differ from the float network's."""
        self.latents: dict[str, Tensor] = {}
        self.kept = None if partial is None else Store(str(partial.resolve()))
        self.there = {} if self.kept is None else self.kept.files()
        self.own = resolved(quantizable(model), config.layers)

    def precision(self, unit: Unit, layer: str = "") -> Precision:
        """Precision at which a unit's layers, or one layer with its own precision, are executed."""
        if layer in self.own:
            return self.own[layer]
        own = {"stem": self.config.stem, "head": self.config.head or self.config.precision.head}
        return own.get(unit.name) or self.config.precision

    def segment(self, segment: int, x: Tensor, reference: Tensor, advance: Callable[[], None] = lambda: None) -> Tensor:
        """Quantize the units of a segment (0: the head) on input states x; `reference` are the float network's states there.

        Returns the quantized segment's output on x. `advance` is called after each unit.
        """
        for unit in self.units:
            if unit.segment != segment:
                continue
            found = self._sources(unit, reference[:2])
            behind = run_unit(self.float, unit, reference)
            name = f"{self.config.precision}.{unit.name}"
            data = self.kept.read(name, self.there.get(name, ())) if self.kept else None
            if data is not None:
                self._restore(data, name)
            else:
                others = set(self.norms)
                self._calibrate(unit, found, x if self.config.propagate else reference, reference, behind)
                if self.kept:
                    self.kept.write(name, self._packed(unit, self.norms - others))
            x, reference = run_unit(self.network, unit, x), behind
            advance()
        return x

    def _sources(self, unit: Unit, x: Tensor) -> Sources:
        """Raises QueeError naming a layer that does not run exactly once."""
        found = sources(self.float, unit, x)
        runs = {name: found.order.count(name) for name in unit.layers}
        if strange := [name for name, times in runs.items() if times != 1]:
            times = runs[strange[0]]
            raise QueeError(
                f"{strange[0]} runs {times} times when the network does; layers that run once are quantized"
            )
        return found

    def _calibrate(self, unit: Unit, found: Sources, x: Tensor, reference: Tensor, behind: Tensor) -> None:
        """Make a unit's quantized layers on states x; the float unit maps `reference` to `behind`."""
        config = self.config
        self._unit(unit, found, x, reference)
        if config.rounding == "learned" and unit.layers and self.precision(unit).weight_bits < PLAIN_BITS:
            target = behind if config.target == "float" else run_unit(self.float, unit, x)
            reconstruct(self.network, unit, self.latents, x, target, config)
            self.norms |= set(norms_of(self.network, unit))

    def _packed(self, unit: Unit, norms: set[str]) -> bytes:
        """A finished unit: its layers and the norms that changed."""
        parts = {name: kinds for name, kinds in layout(self.network).items() if name in unit.layers}
        modules = {name: self.network.get_submodule(name) for name in sorted({*parts, *norms})}
        state = {f"{n}.{key}": value.cpu().numpy() for n, m in modules.items() for key, value in m.state_dict().items()}
        return packed_tensors(state, {"layout": json.dumps(parts, sort_keys=True), "norms": json.dumps(sorted(norms))})

    def _restore(self, data: bytes, name: str) -> None:
        """Load a unit from the form of `_packed`."""
        state, facts = unpacked_tensors(data, name)
        parts, norms = json.loads(facts["layout"]), json.loads(facts["norms"])
        for name, (precision, *kinds) in parts.items():
            layer = quantized_layer(self.float.get_submodule(name), Precision(precision), kinds)
            self.network.set_submodule(name, layer)
        for name in [*parts, *norms]:
            module = self.network.get_submodule(name)
            module.load_state_dict({key: torch.from_numpy(state[f"{name}.{key}"]) for key in module.state_dict()})
            if isinstance(module, QUANTIZED):
                module.finalize()
                module.to(_device(self.float))
        self.norms |= set(norms)

    def _unit(self, unit: Unit, found: Sources, x: Tensor, reference: Tensor) -> None:
        config = self.config
        to_float = config.propagate and config.target == "float"
        wanted: dict[str, np.ndarray] = {}
        if to_float:
            seen = observe(self.float, unit, reference, found.order, config.rows)
            wanted = {name: observer.values() for name, observer in seen.items()}
        if not config.propagate:
            inputs = observe(self.float, unit, x, found.order, config.rows)
        for name in found.order:
            observer = (
                inputs[name] if not config.propagate else observe(self.network, unit, x, [name], config.rows)[name]
            )
            module = self.network.get_submodule(name)
            layer = quantized_layer(module, self.precision(unit, name))
            if isinstance(layer, QuantizedMatMul):
                self._product(name, layer, observer.values(0), observer.values(1))
            else:
                self._weighted(name, module, layer, observer.values(), wanted.get(name), found)
            layer.finalize()
            self.network.set_submodule(name, layer.to(x.device))

    def _product(self, name: str, layer: QuantizedMatMul, a: np.ndarray, b: np.ndarray) -> None:
        bits = layer.precision.activation_bits
        powers = name.endswith("attention_value") and self.config.softmax == "log" and bits < PLAIN_BITS
        method = self.config.activations
        layer.a = search_quantizer(thinned(a), bits, method, name, None, ("log",) if powers else ())
        layer.b = search_quantizer(thinned(b), bits, method, name)

    def _weighted(
        self,
        name: str,
        module: nn.Module,
        layer: QuantizedLayer,
        rows: np.ndarray,
        wanted: np.ndarray | None,
        found: Sources,
    ) -> None:
        """Calibrate a layer with weights on its input rows; `wanted` are the float network's rows."""
        assert not isinstance(layer, QuantizedMatMul)
        config, precision = self.config, layer.precision
        weight, bias = _parameters(name, module)  # (out, in of a group), (out,)
        groups = getattr(layer, "groups", 1)
        target = grouped_product((rows if wanted is None else wanted).astype(np.float64), weight, groups) + bias
        few = precision.activation_bits < PLAIN_BITS
        if few and config.fold_norms and (norm := found.norm.get(name)) and _reads_channels(layer):
            size = weight.shape[1] // self.network.get_submodule(norm).weight.numel()  # type: ignore[union-attr, operator]
            shift, ratio = channel_affine(_finite(name, by_channel(rows, size)), precision.activation_bits)
            fold(self.network.get_submodule(norm), shift, ratio)  # type: ignore[arg-type]
            self.norms.add(norm)
            shift, ratio = shift.repeat(size), ratio.repeat(size)
            rows = (rows - shift) / ratio
            weight, bias = unfold_weight(weight, bias, shift, ratio)
        families: tuple[str, ...] = ()
        if few and name in found.gelu:
            families = {"uniform": (), "searched": ("two_range", "shifted_log")}.get(config.gelu, (config.gelu,))
        importance = None if config.importance == "none" else np.square(per_group(weight, groups)).sum(axis=1).ravel()
        bits = precision.activation_bits
        kept = thinned(rows) if groups == 1 else thinned(rows, LEAST_ROWS * rows.shape[1])
        layer.input = search_quantizer(kept, bits, config.activations, name, importance, families)
        seen = (layer.input(torch.from_numpy(rows).float()) * layer.input.scale).double().numpy()
        self._fit(name, layer, Fitting(weight, bias, seen, target, groups))

    def _fit(self, name: str, layer: QuantizedLinear | QuantizedConv2d, given: "Fitting") -> None:
        """Choose the integers, scales and bias of a layer with weights; its groups are fitted one by one."""
        config, bits = self.config, layer.precision.weight_bits
        limit = 2 ** (bits - 1) - 1
        fitted, moments = given.weight.copy(), []
        for inputs, outputs in given.parts():
            seen, target = given.seen[:, inputs], given.target[:, outputs]
            if config.ridge:
                fitted[outputs] = confirmed_ridge(given.weight[outputs], seen, target, config.ridge_strength)
            moments.append(seen.T @ seen / len(seen))
        squares = np.stack([np.diag(each) for each in moments])  # (groups, in of a group)
        squares = squares[0] if given.groups == 1 else squares.repeat(len(fitted) // given.groups, axis=0)
        integers, scale = quantize_weight(
            torch.from_numpy(fitted), bits, config.weights, torch.from_numpy(squares.copy())
        )
        steps, mean = scale.double().numpy(), given.seen.mean(axis=0)
        if config.rounding != "nearest":
            rounded, latent = np.empty_like(fitted), np.empty_like(fitted)
            for (inputs, outputs), each in zip(given.parts(), moments, strict=True):
                centred = each - np.outer(mean[inputs], mean[inputs]) if config.bias_correction else each
                found = round_compensated(fitted[outputs], steps[outputs], limit, centred)
                rounded[outputs], latent[outputs] = found
            integers, self.latents[name] = torch.from_numpy(rounded), torch.from_numpy(latent).float()
        bias = given.bias
        if config.bias_correction:
            kernel = integers.double().numpy() * steps[:, None]
            produced = [kernel[outputs] @ mean[inputs] for inputs, outputs in given.parts()]
            bias = given.target.mean(axis=0) - np.concatenate(produced)
        layer.set_weight(integers, scale, torch.from_numpy(bias).float())


@dataclass(frozen=True)
class Fitting:
    """What a layer's integers are chosen by, in double precision."""

    weight: np.ndarray
    """(out, in of a group)"""
    bias: np.ndarray
    """(out,)"""
    seen: np.ndarray
    """(rows, in) quantized inputs"""
    target: np.ndarray
    """(rows, out) wanted outputs"""
    groups: int

    def parts(self) -> list[tuple[slice, slice]]:
        """Inputs and outputs of each group."""
        inputs, outputs = self.weight.shape[1], len(self.weight) // self.groups
        return [
            (slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)) for g in range(self.groups)
        ]


LEAST_ROWS = 32
"""Least number of rows by which the range of a convolution in groups is chosen; their rows are long."""


def per_group(weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights (out, in of a group) as (groups, out of a group, in of a group)."""
    return weight.reshape(groups, -1, weight.shape[1])


def grouped_product(rows: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Rows (n, in) times the transposed weights (out, in of a group), each group on its own inputs: (n, out)."""
    if groups == 1:
        product: np.ndarray = rows @ weight.T
        return product
    parts = rows.reshape(len(rows), groups, -1).transpose(1, 0, 2) @ per_group(weight, groups).transpose(0, 2, 1)
    joined: np.ndarray = parts.transpose(1, 0, 2).reshape(len(rows), -1)
    return joined


def _reads_channels(layer: QuantizedLinear | QuantizedConv2d) -> bool:
    """Whether all values that a layer multiplies are a norm's: convolutions with padding multiply zeros, too."""
    return isinstance(layer, QuantizedLinear) or (layer.groups == 1 and not any(layer.padding) and not layer.same)


def by_channel(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows (n, channels · size) of values as (n · size, channels)."""
    return rows if size == 1 else rows.reshape(len(rows), -1, size).transpose(0, 2, 1).reshape(len(rows) * size, -1)


def _parameters(name: str, module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, in) and bias (out,) of a float layer in double precision."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    flat = weight.detach().double().flatten(1).cpu().numpy()
    own = bias.detach().double().cpu().numpy() if isinstance(bias, Tensor) else np.zeros(len(flat))
    if not (np.isfinite(flat).all() and np.isfinite(own).all()):
        raise QueeError(f"{name}: the float weights contain NaN or infinity")
    return flat, own


def _finite(name: str, rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise QueeError(f"{name}: calibration values contain NaN or infinity")
    return rows


def quantize_(
    model: nn.Module,
    config: QuantizationConfig,
    calibration_batches: Iterable[Tensor],
    partial: Path | None = None,
) -> nn.Module:
    """Quantize a float model in place and return it.

    `calibration_batches` are image tensors (n, c, h, w). `partial`, a folder for this model, config and data alone, keeps
    finished units (stem, blocks, head) for a later call. Raises QueeError for calibration data that are absent, too few,
    constant, not finite or of a wrong shape, for a network that is already quantized, and for a layer that cannot be
    quantized, which the message names; nothing is replaced then.
    """
    images = checked(calibration_batches, config.samples, model, least([config])).to(_device(model))
    (config,) = with_formats(model, [config], images)
    calibrator = Calibrator(model, config, partial)
    x, reference = images, images
    with progress(f"quantizing to {config.precision}", len(calibrator.units)) as bar:
        for segment in _segments(model):
            x = calibrator.segment(segment, x, reference, bar.advance)
            reference = _float_segment(calibrator, segment, reference)
    return install(model, calibrator)


def quantize_paths(
    model: SegmentedBackbone,
    configs: Sequence[QuantizationConfig],
    calibration_batches: Iterable[Tensor],
    seed: int = 0,
    partial: Path | None = None,
) -> dict[Precision, SegmentedBackbone]:
    """Copies of a float backbone at several precisions, each segment calibrated on the prefixes that paths produce.

    The input states of a segment come from segments of all precisions: each calibration sample draws a precision per
    segment, uniformly. For precisions of `PLAIN_BITS` activation bits and more, half of the samples have the precision's own
    prefix, and for the dearest precision, if it has fewer, three quarters: fitted to the float network's output, they would
    otherwise correct the errors of fewer bits where there are none.
    Raises QueeError as `quantize_` does.
    """
    most = max(config.samples for config in configs)
    images = checked(calibration_batches, most, model, least(configs)).to(_device(model))
    calibrators = [Calibrator(model, config, partial) for config in with_formats(model, configs, images)]
    random = np.random.default_rng(seed)
    order = torch.from_numpy(random.permutation(len(images)))
    shares = [_own_share(config.precision, max(c.precision for c in configs)) for config in configs]
    inputs, reference = [images] * len(calibrators), images
    segments = _segments(model)
    with progress("quantizing", sum(len(calibrator.units) for calibrator in calibrators)) as bar:
        for segment in segments:
            outputs = [c.segment(segment, x, reference, bar.advance) for c, x in zip(calibrators, inputs, strict=True)]
            choice = torch.from_numpy(random.integers(len(calibrators), size=len(images)))
            reference = _float_segment(calibrators[0], segment, reference)
            mixed = torch.stack(outputs)[choice, torch.arange(len(images))]
            axes = (-1, *[1] * (mixed.dim() - 1))
            drawn = order.view(axes).to(mixed.device)
            inputs = [mixed.where(drawn >= int(share * len(images)), y)
                      for y, share in zip(outputs, shares, strict=True)]  # fmt: skip
    return {c.config.precision: install(deepcopy(model), c) for c in calibrators}  # type: ignore[misc]


def _own_share(precision: Precision, dearest: Precision) -> float:
    """Share of the calibration samples that have a precision's own prefix.

    On ResNet-20 with w2a3, w3a3, w5a5 by layer, w5a5 alone is right on 92.6 % (float: 92.7), behind mixed prefixes on 90.9,
    with half own on 91.5, with three quarters on 92.3, where paths that end at w5a5 lose 0.7 points on average.
    """
    if precision.activation_bits >= PLAIN_BITS:
        return 0.5
    return 0.75 if precision == dearest else 0.0


def _device(model: nn.Module) -> torch.device:
    """The device of a model's parameters, on which it is calibrated."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _segments(model: nn.Module) -> list[int]:
    """Segments in the order of execution, the head (0) last."""
    return [*range(1, model.segments + 1), 0] if isinstance(model, SegmentedBackbone) else [1]


def _float_segment(calibrator: Calibrator, segment: int, reference: Tensor) -> Tensor:
    for unit in calibrator.units:
        if unit.segment == segment:
            reference = run_unit(calibrator.float, unit, reference)
    return reference


def install(model: nn.Module, calibrator: Calibrator) -> nn.Module:
    """Put the calibrated layers into the float model, whose BatchNorm is folded."""
    fold_(model)
    for name, module in list(calibrator.network.named_modules()):
        if isinstance(module, (*QUANTIZED, RoundedMatMul)):
            model.set_submodule(name, module)
    for name in sorted(calibrator.norms):
        model.get_submodule(name).load_state_dict(calibrator.network.get_submodule(name).state_dict())
    return model


def least(configs: Iterable[QuantizationConfig]) -> int:
    """Number of calibration samples that are needed: 2, or as many as learned rounding holds one of out."""
    for config in configs:
        parts = (config.precision, config.stem, config.head)
        if config.rounding == "learned" and any(
            part and Precision(str(part)).weight_bits < PLAIN_BITS for part in parts
        ):
            return HELD_OUT
    return 2


def checked(batches: Iterable[Tensor], samples: int, model: nn.Module | None = None, least: int = 2) -> Tensor:
    """The first `samples` calibration samples as one tensor (n, …).

    Raises QueeError for data that are absent, fewer than `least`, constant, not finite, not in floating point, or not of the
    model's shape; and for a model that is already quantized or has nothing to quantize.
    """
    if model is not None:
        _check_model(model)
    listed: list[Tensor] = []
    for batch in batches:
        if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.dim() < 2:
            kind = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise QueeError(f"a calibration batch is {kind}; valid: a floating-point tensor (n, …) of samples")
        listed.append(batch[: samples - sum(map(len, listed))])
        if sum(map(len, listed)) >= samples:
            break
    found = sum(map(len, listed))
    if found < least:
        why = f" (rounding 'learned' checks itself on one in {HELD_OUT}; 'compensated' needs 2)" if least > 2 else ""
        raise QueeError(f"calibration needs at least {least} samples, got {found}{why}")
    shapes = {tuple(batch.shape[1:]) for batch in listed}
    if len(shapes) > 1:
        raise QueeError(f"calibration batches differ in shape: {sorted(shapes)}")
    if isinstance(model, SegmentedBackbone) and shapes != {model.input.shape}:
        raise QueeError(f"calibration samples have the shape {min(shapes)}; the backbone takes {model.input.shape}")
    images = torch.cat(listed)
    finite = torch.isfinite(images)
    if not bool(finite.all()):
        sample = int((~finite).flatten(1).any(dim=1).int().argmax())
        raise QueeError(f"calibration data contain NaN or infinity, first in sample {sample}")
    if bool((images == images[:1]).all()):
        raise QueeError(f"calibration data are constant: all {found} samples are equal")
    return images


def _check_model(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, (*QUANTIZED, RoundedMatMul)):
            raise QueeError(f"{name} is quantized to {module.precision} already; quantize_ takes the float network")
    if not quantizable(model):
        raise QueeError(f"nothing to quantize in a {type(model).__name__}: no Linear, Conv2d or MatMul")


FACTORS = np.linspace(1.0, 0.4, 16)
ROWS = 512
NARROWEST = 1e-2
"""A channel's range is raised to at least this share of the mean range."""


def channel_ranges(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Range of each channel (features,) of rows (n, features) that a uniform grid covers with least squared error."""
    x = rows[evenly(len(rows), ROWS)].astype(np.float32)
    middle = x.mean(axis=0)
    low, high = x.min(axis=0) - middle, x.max(axis=0) - middle
    levels = 2**bits - 1
    least, best = np.full(x.shape[1], np.inf), np.ones(x.shape[1])
    for factor in FACTORS:
        step = np.maximum((high - low) * factor / levels, 1e-12)
        start = low * factor + middle
        q = np.clip(np.rint((x - start) / step), 0, levels)
        error = np.square(q * step + start - x).sum(axis=0)
        best, least = np.where(error < least, factor, best), np.minimum(error, least)
    return low * best + middle, high * best + middle


def channel_affine(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and ratio, (features,) each, such that (x - shift) / ratio has the same range in every channel."""
    low, high = channel_ranges(rows, bits)
    width = high - low
    ratio = np.maximum(width / max(float(width.mean()), 1e-12), NARROWEST)
    return (low + high) / 2, ratio


def fold(norm: nn.LayerNorm, shift: np.ndarray, ratio: np.ndarray) -> None:
    """Change a LayerNorm whose output was x to output (x - shift) / ratio."""
    with torch.no_grad():
        weight, bias = norm.weight.double().cpu().numpy() / ratio, (norm.bias.double().cpu().numpy() - shift) / ratio
        norm.weight.copy_(torch.from_numpy(weight))
        norm.bias.copy_(torch.from_numpy(bias))


def unfold_weight(
    weight: np.ndarray, bias: np.ndarray, shift: np.ndarray, ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, in) and bias (out,) of the layer after the norm that keep the function of the norm's input."""
    return weight * ratio, bias + weight @ shift
