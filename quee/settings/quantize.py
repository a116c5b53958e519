"""Block `quantize` and the quantizer's config, which is the block for one precision; presets and ingredients.

Stages that quantize depend on this file, because an experiment's settings only name the preset and its values are here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from quee.errors import UsageError
from quee.precision import Precision
from quee.settings.block import Block, Count, PrecisionValue, Seed, refusal
from quee.work.registry import Registry, unknown

INGREDIENTS: Registry[dict[str, Any]] = Registry("ingredient")
"""Ingredients of a method: name to the settings that switch it off."""

_OFF: dict[str, dict[str, Any]] = {
    "weight_search": {"weights": "minmax"},
    "activation_search": {"activations": "minmax"},
    "importance": {"importance": "none"},
    "bias_correction": {"bias_correction": False},
    "fold_norms": {"fold_norms": False},
    "log_softmax": {"softmax": "uniform"},
    "gelu_grid": {"gelu": "uniform"},
    "ridge": {"ridge": False},
    "rounding": {"rounding": "nearest"},
    "propagation": {"propagate": False},
    "float_target": {"target": "same"},
}
for _name, _off in _OFF.items():
    INGREDIENTS.register(_name)(_off)

PLAIN: dict[str, Any] = {name: value for off in _OFF.values() for name, value in off.items()}
"""Every ingredient switched off."""

PRESETS: Registry[dict[str, Any]] = Registry("preset")
"""Named methods: name to settings. `fast` is the default; `best` adds learned rounding."""

for _name, _settings in {
    "minmax": PLAIN,
    "percentile": {**PLAIN, "weights": "mse", "activations": "percentile"},
    "mse": {**PLAIN, "weights": "mse", "activations": "mse", "bias_correction": True},
    "repq": {**PLAIN, "weights": "mse", "activations": "percentile", "fold_norms": True, "softmax": "log"},
    "erq": {
        **PLAIN, "weights": "mse", "activations": "mse", "fold_norms": True, "softmax": "log", "ridge": True,
        "rounding": "compensated", "bias_correction": True,
    },
    "fast": {},
    "best": {"rounding": "learned"},
}.items():  # fmt: skip
    PRESETS.register(_name)(_settings)

OWN = frozenset({"preset", "path_aware", "mixed", "seed"})
"""Settings that no preset decides."""
OF_EXPERIMENTS = frozenset({"preset", "path_aware", "mixed"})
"""Settings about choosing and using configs; they are not part of a config."""


def _preset(name: str) -> str:
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, list(PRESETS)))
    return name


def _switch(value: Any) -> Any:
    if type(value) is bool or value == "auto":
        return value
    raise ValueError("valid: true, false, auto")


class Quantize(Block):
    """How networks are quantized; an ingredient that is not given has the preset's value.

    Folding and non-uniform grids are used only below 8 activation bits: w8a8 stays plain quantize–dequantize, which
    engines execute. `docs/quantization.md` describes the ingredients.
    """

    preset: Annotated[str, AfterValidator(_preset)] = "fast"
    """Named method: `minmax`, `percentile`, `mse`, `repq`, `erq`, `fast` or `best`."""
    weights: Literal["minmax", "mse"] = "mse"
    """Search of weight scales: the full range, or the least squared error weighted by the mean square of each input (the
    diagonal of the layer's Hessian)."""
    activations: Literal["minmax", "percentile", "mse"] = "mse"
    """Search of activation ranges."""
    importance: Literal["none", "output"] = "output"
    """Error that a search of ranges minimises: of the values themselves (`none`), or of the layer's output."""
    bias_correction: bool = True
    """Absorb the mean error of each layer's output in its bias."""
    fold_norms: bool = True
    """Scale and zero point per channel after a LayerNorm, folded into its affine and the next weight (RepQ-ViT)."""
    softmax: Literal["uniform", "log"] = "log"
    """Grid of attention probabilities: `uniform`, or powers of a searched base if their error is less."""
    gelu: Literal["uniform", "two_range", "shifted_log", "searched"] = "searched"
    """Grid after GELU: `uniform`, `two_range` (PTQ4ViT), `shifted_log` (I&S-ViT, AdaLog), or the one of least error."""
    ridge: bool = True
    """Ridge regression of the weights on the quantized inputs, before they are quantized (ERQ)."""
    ridge_strength: Annotated[float, Field(ge=0)] = 0.01
    """Least penalty on changes of the weights, in units of the mean square of the inputs. Half of the rows choose among 1, 10
    and 100 times this penalty and no change."""
    rounding: Literal["nearest", "compensated", "learned"] = "compensated"
    """`compensated`: column by column, each column's error absorbed by those not yet rounded; `learned`: block by block
    (after BRECQ)."""
    propagate: bool = True
    """Calibrate each layer on the outputs of the quantized layers before it instead of the float network's states."""
    target: Literal["same", "float"] = "float"
    """Output that layers are fitted to: the float network's (`float`, which also corrects earlier errors), or the float
    layer's on the same input (`same`)."""
    iterations: Count = 300
    """Steps per block of learned rounding."""
    path_aware: bool = True
    """Whether a segment is calibrated on the mixture of prefixes that paths produce."""
    stem: PrecisionValue | None = None
    """Precision of the stem, if it differs from segment 1's."""
    head: PrecisionValue | None = None
    """Precision of the backbone's own head; w8a8 unless given."""
    layers: dict[str, PrecisionValue] = Field(default_factory=dict)
    """Layers of integer networks with a precision of their own, by name or pattern: `{blocks.*.mlp.fc2: w8a8}`. The first
    pattern that fits a layer counts."""
    float_products: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format, in integer networks, of the products that calibration does not quantize (the performer's in T2T-ViT):
    float32, operands rounded to bf16, or to 8 bits with a scale for each row and column of each image. `auto` measures
    which is the cheapest that does not clearly change more than 0.1 % of the float network's answers."""
    mixed: Annotated[Literal[True, False, "auto"], BeforeValidator(_switch)] = "auto"
    """Whether the layers of a segment have bits of their own, within the BitFLOPs of its precision. `auto`: at each precision
    at which stage `tree` does not measure beyond doubt that uniform bits are better."""
    seed: Seed = 0
    """Seed of everything that is drawn: prefixes, parts of the samples, learned rounding."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """An ingredient that is null has the preset's value."""
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if value is not None or name in OWN}

    @field_validator("layers", mode="before")
    @classmethod
    def _from_pairs(cls, layers: Any) -> Any:
        pairs = isinstance(layers, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in layers)
        return dict(layers) if pairs else layers

    @field_serializer("layers", when_used="json")
    def _as_pairs(self, layers: dict[str, Precision]) -> list[list[str]]:
        """Pairs, because DVC ignores the order of keys."""
        return [[name, str(precision)] for name, precision in layers.items()]

    @model_validator(mode="after")
    def _filled(self) -> "Quantize":
        filled = {name: value for name, value in PRESETS[self.preset].items() if name not in self.model_fields_set}
        self.__dict__.update(filled)  # pydantic refuses to set frozen fields; `model_fields_set` keeps the given ones
        return self

    @model_serializer(mode="wrap", when_used="json")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Ingredients that were not given are null, so that an experiment's settings hold only its own values."""
        given = self.model_fields_set | OWN
        return {name: value if name in given else None for name, value in handler(self).items()}


class QuantizationConfig(Quantize):
    """How a network is quantized to one precision.

    Examples:
        >>> QuantizationConfig("w4a4", ridge=False, stem="w8a8").stem
        Precision('w8a8')
    """

    precision: PrecisionValue
    """Precision of the layers that have none of their own."""
    samples: Count = 1024
    """Most calibration samples that are used; later ones are not read."""
    rows: Count = 8192
    """Most rows of each layer's input that are kept."""

    def __init__(self, precision: Precision | str, preset: str = "fast", **settings: Any) -> None:
        """Raises UsageError naming an unknown preset or setting, or an invalid value and the valid ones."""
        try:
            super().__init__(**{**settings, "precision": precision, "preset": preset})
        except ValidationError as error:
            raise UsageError(refusal(error, type(self))) from None

    @classmethod
    def of_settings(cls, precision: Precision | str, settings: Quantize) -> "QuantizationConfig":
        """The config that an experiment's block describes."""
        given = settings.model_fields_set - OF_EXPERIMENTS
        return cls(precision, settings.preset, **{name: getattr(settings, name) for name in given})

    def without(self, ingredient: str) -> "QuantizationConfig":
        """The config with one ingredient switched off; raises UsageError naming an unknown one."""
        return self.model_copy(update=INGREDIENTS[ingredient])

    def to_json(self) -> dict[str, Any]:
        """Every setting by name; `layers` only where a layer has a precision of its own, `float_products` only where named."""
        shown = {name: getattr(self, name) for name in type(self).model_fields if name not in OF_EXPERIMENTS}
        if self.layers:
            shown["layers"] = {name: str(precision) for name, precision in self.layers.items()}
        else:
            del shown["layers"]
        if self.float_products == "auto":
            del shown["float_products"]
        return {name: str(value) if isinstance(value, Precision) else value for name, value in shown.items()}
