"""`quantize_`: observe a float model on calibration batches, choose grids, replace its layers.

Units (stem, blocks, head) are calibrated in the order of execution, and within a unit its layers, each on what the
quantized layers before it give.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quee.backbones.base import SegmentedBackbone
from quee.errors import QueeError
from quee.io import read_tensors, write_tensors
from quee.precision import Precision
from quee.progress import progress
from quee.quantization.beside import add_beside, block_of
from quee.quantization.compensation import compensation, through
from quee.quantization.config import QuantizationConfig
from quee.quantization.fisher import Fisher, fisher
from quee.quantization.folding import channel_affine, fold, unfold_weight
from quee.quantization.layers import QUANTIZED, QuantizedLayer, QuantizedMatMul, quantized_layer
from quee.quantization.reconstruction import load_unit_state, norms_of, reconstruct, unit_state
from quee.quantization.search import search_quantizer, thinned
from quee.quantization.units import Sources, Unit, observe, run_unit, sources, units_of
from quee.quantization.weights import confirmed_ridge, quantize_weight, round_compensated

PLAIN_BITS = 8
"""From so many activation bits on, only grids that engines execute are used."""


class Calibrator:
    """Quantizes a copy of a float network unit by unit; `network` is the copy."""

    def __init__(
        self,
        model: nn.Module,
        config: QuantizationConfig,
        partial: Path | None = None,
        information: Fisher | None = None,
    ) -> None:
        """`partial` is a folder where finished blocks of learned rounding are kept, and found again; `information` is
        there for configs whose importance is `fisher`."""
        if config.precision.is_float:
            raise QueeError(f"quantize_ makes integer precisions such as w8a8, not {config.precision}")
        self.float, self.config = model, config
        self.network = deepcopy(model)
        self.units = units_of(model)
        self.norms: set[str] = set()
        """LayerNorms that are no longer the float network's."""
        self.latents: dict[str, Tensor] = {}
        self.partial = partial
        self.information = information if config.importance == "fisher" else None

    def precision(self, unit: Unit) -> Precision:
        """Precision at which a unit's layers are executed."""
        own = {"stem": self.config.stem, "head": self.config.head or self.config.precision.head}
        return own.get(unit.name) or self.config.precision

    def segment(self, segment: int, x: Tensor, reference: Tensor) -> Tensor:
        """Quantize the units of a segment (0: the head), entered by states x where the float network has `reference`.

        Returns the quantized segment's output on x.
        """
        config = self.config
        for unit in self.units:
            if unit.segment != segment:
                continue
            entered = x if config.propagate else reference
            self._unit(unit, entered, reference)
            behind = run_unit(self.float, unit, reference)
            if config.rounding == "learned" and unit.layers and self.precision(unit).weight_bits < PLAIN_BITS:
                self._learn(unit, entered, behind if config.target == "float" else run_unit(self.float, unit, entered))
            if config.compensation and unit.name.startswith("blocks.") and not self.precision(unit).plain:
                self._compensate(unit, entered, reference if config.target == "float" else entered)
            x, reference = run_unit(self.network, unit, x), behind
        return x

    def _unit(self, unit: Unit, x: Tensor, reference: Tensor) -> None:
        config = self.config
        found = sources(self.float, unit, reference[:2])
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
            layer = quantized_layer(module, self.precision(unit))
            if isinstance(layer, QuantizedMatMul):
                self._product(name, layer, observer.values(0), observer.values(1))
            else:
                self._weighted(name, module, layer, observer.values(), wanted.get(name), found)
            layer.finalize()
            self.network.set_submodule(name, layer.to(x.device))

    def _learn(self, unit: Unit, x: Tensor, target: Tensor) -> None:
        """Learned rounding of a calibrated unit; a finished one is read back."""
        file = self.partial / f"{self.config.precision}.{unit.name}.safetensors" if self.partial else None
        if file is not None and file.exists():
            state = {key: torch.from_numpy(value) for key, value in read_tensors(file).items()}
            load_unit_state(self.network, unit, state)
        else:
            importance = self.information.states[unit.name] if self.information else torch.ones(())
            reconstruct(self.network, unit, self.latents, x, target, importance, self.config)
        self.norms |= set(norms_of(self.network, unit))
        if file is not None:
            write_tensors(file, {key: value.cpu().numpy() for key, value in unit_state(self.network, unit).items()})

    def _compensate(self, unit: Unit, x: Tensor, reference: Tensor) -> None:
        """Put a layer beside a calibrated block, so that on x it gives what the float block gives on `reference`."""
        assert self.config.compensation is not None
        rows, given = through(self.network, unit, x, self.config.rows)
        missing = through(self.float, unit, reference, self.config.rows)[1] - given
        layer = compensation(rows, missing, self.config.compensation, self.config, unit.name)
        add_beside(self.network.get_submodule(unit.name), layer.to(x.device))

    def _product(self, name: str, layer: QuantizedMatMul, a: np.ndarray, b: np.ndarray) -> None:
        bits = layer.precision.activation_bits
        powers = name.endswith("attention_value") and self.config.softmax == "log" and bits < PLAIN_BITS
        method = self.config.activations
        of_a, of_b = self.information.operands[name] if self.information else (None, None)
        layer.a = search_quantizer(thinned(a), bits, method, name, of_a, ("log",) if powers else ())
        layer.b = search_quantizer(thinned(b), bits, method, name, of_b)

    def _weighted(
        self,
        name: str,
        module: nn.Module,
        layer: QuantizedLayer,
        rows: np.ndarray,
        wanted: np.ndarray | None,
        found: Sources,
    ) -> None:
        """Calibrate a layer with weights on the rows that enter it; `wanted` are the float network's."""
        assert not isinstance(layer, QuantizedMatMul)
        config, precision = self.config, layer.precision
        weight, bias = _parameters(name, module)  # (out, in), (out,)
        target = (rows if wanted is None else wanted).astype(np.float64) @ weight.T + bias
        few = precision.activation_bits < PLAIN_BITS
        if few and config.fold_norms and (norm := found.norm.get(name)):
            shift, ratio = channel_affine(_finite(name, rows), precision.activation_bits)
            fold(self.network.get_submodule(norm), shift, ratio)  # type: ignore[arg-type]
            self.norms.add(norm)
            rows = (rows - shift) / ratio
            weight, bias = unfold_weight(weight, bias, shift, ratio)
        families: tuple[str, ...] = ()
        if few and name in found.gelu:
            families = {"uniform": (), "searched": ("two_range", "shifted_log")}.get(config.gelu, (config.gelu,))
        importance = None if config.importance == "none" else np.square(weight).sum(axis=0)
        if self.information:
            importance = self.information.outputs[name] @ np.square(weight)
        bits = precision.activation_bits
        layer.input = search_quantizer(thinned(rows), bits, config.activations, name, importance, families)
        seen = (layer.input(torch.from_numpy(rows).float()) * layer.input.scale).double().numpy()
        fitted = confirmed_ridge(weight, seen, target, config.ridge_strength) if config.ridge else weight
        moments = seen.T @ seen / len(seen)
        limit = 2 ** (precision.weight_bits - 1) - 1
        integers, scale = quantize_weight(
            torch.from_numpy(fitted), precision.weight_bits, config.weights, torch.from_numpy(np.diag(moments).copy())
        )
        if config.rounding != "nearest":
            mean = seen.mean(axis=0)
            moments = moments - np.outer(mean, mean) if config.bias_correction else moments
            rounded, latent = round_compensated(fitted, scale.double().numpy(), limit, moments)
            integers, self.latents[name] = torch.from_numpy(rounded), torch.from_numpy(latent).float()
        if config.bias_correction:
            kernel = integers.double().numpy() * scale.double().numpy()[:, None]
            bias = target.mean(axis=0) - kernel @ seen.mean(axis=0)
        layer.set_weight(integers, scale, torch.from_numpy(bias).float())


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

    `calibration_batches` are image tensors (n, c, h, w). Nothing is replaced when an error is raised: QueeError for
    absent, constant or non-finite calibration data, naming the layer, or for a layer that nothing quantizes. Blocks whose
    learned rounding is finished are kept in the folder `partial`, and found again.
    """
    images = checked(calibration_batches, config.samples).to(_device(model))
    calibrator = Calibrator(model, config, partial, _information([config], model, images))
    x, reference = images, images
    for segment in _segments(model):
        x = calibrator.segment(segment, x, reference)
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

    A segment is entered by states that segments of any of the precisions have made: each calibration sample draws a
    precision per segment, uniformly. Raises QueeError as `quantize_` does.
    """
    images = checked(calibration_batches, max(config.samples for config in configs)).to(_device(model))
    information = _information(configs, model, images)
    calibrators = [Calibrator(model, config, partial, information) for config in configs]
    random = np.random.default_rng(seed)
    x, reference = images, images
    segments = _segments(model)
    with progress("quantizing segments", len(segments) * len(calibrators)) as bar:
        for segment in segments:
            outputs = []
            for calibrator in calibrators:
                outputs.append(calibrator.segment(segment, x, reference))
                bar.advance()
            choice = torch.from_numpy(random.integers(len(calibrators), size=len(images)))
            reference = _float_segment(calibrators[0], segment, reference)
            x = torch.stack(outputs)[choice, torch.arange(len(images))]
    return {c.config.precision: install(deepcopy(model), c) for c in calibrators}  # type: ignore[misc]


def _device(model: nn.Module) -> torch.device:
    """Where a model's parameters are, and so where it is calibrated."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _information(configs: Sequence[QuantizationConfig], model: nn.Module, images: Tensor) -> Fisher | None:
    wanted = [config for config in configs if config.importance == "fisher"]
    return fisher(model, images, wanted[0].seed) if wanted else None


def _segments(model: nn.Module) -> list[int]:
    """Segments in the order of execution, the head (0) last."""
    return [*range(1, model.segments + 1), 0] if isinstance(model, SegmentedBackbone) else [1]


def _float_segment(calibrator: Calibrator, segment: int, reference: Tensor) -> Tensor:
    for unit in calibrator.units:
        if unit.segment == segment:
            reference = run_unit(calibrator.float, unit, reference)
    return reference


def install(model: nn.Module, calibrator: Calibrator) -> nn.Module:
    """Put what was calibrated into the float model."""
    for name, module in list(calibrator.network.named_modules()):
        if isinstance(module, QUANTIZED) and (block := block_of(name)):
            add_beside(model.get_submodule(block), module)
        elif isinstance(module, QUANTIZED):
            model.set_submodule(name, module)
    for name in sorted(calibrator.norms):
        model.get_submodule(name).load_state_dict(calibrator.network.get_submodule(name).state_dict())
    return model


def checked(batches: Iterable[Tensor], samples: int) -> Tensor:
    """The first `samples` calibration samples as one tensor (n, …).

    Raises QueeError for data that are absent, too few, constant, not finite or of several shapes.
    """
    listed: list[Tensor] = []
    for batch in batches:
        listed.append(batch[: samples - sum(map(len, listed))])
        if sum(map(len, listed)) >= samples:
            break
    found = sum(map(len, listed))
    if found < 2:
        raise QueeError(f"calibration needs at least 2 samples, got {found}")
    shapes = {tuple(batch.shape[1:]) for batch in listed}
    if len(shapes) > 1:
        raise QueeError(f"calibration batches differ in shape: {sorted(shapes)}")
    images = torch.cat(listed)
    if not bool(torch.isfinite(images).all()):
        raise QueeError("calibration data contain NaN or infinity")
    if bool((images == images[:1]).all()):
        raise QueeError("calibration data are constant: all samples are equal")
    return images
