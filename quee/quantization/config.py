"""Settings of post-training quantization: one frozen config per precision, presets, and the list of ingredients."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quee.errors import UsageError
from quee.precision import Precision
from quee.work.registry import Registry, unknown

if TYPE_CHECKING:
    from quee.settings.experiment import Quantize

CHOICES = {
    "weights": ("minmax", "mse"),
    "activations": ("minmax", "percentile", "mse"),
    "importance": ("none", "output"),
    "rounding": ("nearest", "compensated", "learned"),
    "softmax": ("uniform", "log"),
    "gelu": ("uniform", "two_range", "shifted_log", "searched"),
    "target": ("same", "float"),
}
"""Valid values of the settings that are names."""


@dataclass(frozen=True)
class QuantizationConfig:
    """How a network is quantized to one precision; every ingredient can be switched off by itself.

    Folding and the grids that are not uniform are used below 8 activation bits only: w8a8 stays plain
    quantize–dequantize, as engines execute it.
    """

    precision: Precision
    weights: str = "mse"
    """Search of weight scales: `minmax`, or `mse` weighted by the mean square of each input (the diagonal of the
    layer's Hessian)."""
    activations: str = "mse"
    """Search of activation ranges: `minmax`, `percentile` or `mse`."""
    importance: str = "output"
    """Error that ranges are searched for: of the values themselves (`none`), or of the layer's output they cause
    (`output`)."""
    bias_correction: bool = True
    """Absorb the mean error of each layer's output in its bias."""
    fold_norms: bool = True
    """Scale and zero point per channel behind a LayerNorm, folded into its affine and the next weight (RepQ-ViT)."""
    softmax: str = "log"
    """Grid of attention probabilities: `uniform`, or powers of a searched base where they err less."""
    gelu: str = "searched"
    """Grid behind GELU: `uniform`, `two_range` (PTQ4ViT), `shifted_log` (I&S-ViT, AdaLog), or whichever errs least."""
    ridge: bool = True
    """Ridge regression of the weights on the quantized inputs, before they are quantized (ERQ)."""
    ridge_strength: float = 0.01
    """Least penalty on changes of the weights, in units of the mean square of the inputs; half of the rows check it,
    10 and 100 times as much, and no change at all."""
    rounding: str = "compensated"
    """`nearest`; `compensated`, column by column, each column's error absorbed by those not yet rounded; or
    `learned`, block by block (after BRECQ)."""
    propagate: bool = True
    """Calibrate each layer on what the quantized layers before it give, not on the float network's states."""
    target: str = "float"
    """What layers are fitted to give: the float network's output (`float`: earlier errors are corrected too), or
    the float layer's on the same input (`same`)."""
    iterations: int = 300
    """Steps per block of learned rounding."""
    samples: int = 1024
    """At most so many calibration samples are held; later ones are not read."""
    rows: int = 8192
    """At most so many rows of each layer's input are held."""
    stem: Precision | None = None
    """Precision of the stem, where it is not that of segment 1."""
    head: Precision | None = None
    """Precision of the head; w8a8 unless given."""
    layers: tuple[tuple[str, Precision], ...] = ()
    """Layers with a precision of their own, whatever their part's: by name or by a pattern such as `blocks.*.mlp.fc2`."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in CHOICES.items():
            if (value := getattr(self, name)) not in valid:
                raise UsageError(f"{name} {value!r}; valid: {', '.join(valid)}")
        for name in ("iterations", "samples", "rows"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} {value!r}; valid: from 1")
        if not self.ridge_strength >= 0:
            raise UsageError(f"ridge_strength {self.ridge_strength!r}; valid: from 0")
        for name in ("precision", "stem", "head"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Precision):
                object.__setattr__(self, name, Precision(value))
        given = self.layers.items() if isinstance(self.layers, Mapping) else self.layers
        object.__setattr__(self, "layers", tuple((name, Precision(value)) for name, value in given))

    @classmethod
    def of(cls, precision: "Precision | str", preset: str = "fast", **settings: Any) -> "QuantizationConfig":
        """A preset's config, with settings replaced; raises UsageError naming an unknown preset or setting."""
        chosen = {**PRESETS[preset], **{k: v for k, v in settings.items() if v is not None}}
        if strange := [name for name in chosen if name not in cls.__dataclass_fields__]:
            raise UsageError(unknown("quantization setting", strange[0], sorted(cls.__dataclass_fields__)))
        return cls(Precision(precision), **chosen)

    @classmethod
    def of_settings(cls, precision: "Precision | str", settings: "Quantize") -> "QuantizationConfig":
        """The config that an experiment's block describes: its preset, with the ingredients that the block gives."""
        given = settings.model_dump(exclude={"preset", "path_aware", "mixed"}, exclude_none=True)
        return cls.of(precision, settings.preset, **given)

    def without(self, ingredient: str) -> "QuantizationConfig":
        """The config with one ingredient switched off; raises UsageError naming an unknown one."""
        return replace(self, **INGREDIENTS[ingredient])

    def to_json(self) -> dict[str, Any]:
        """Every setting by name; `layers` only where a layer has a precision of its own."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "layers"}
        if self.layers:
            shown["layers"] = {name: str(precision) for name, precision in self.layers}
        return {k: str(v) if isinstance(v, Precision) else v for k, v in shown.items()}


INGREDIENTS: Registry[dict[str, Any]] = Registry("ingredient")
"""What a method is made of: name to the settings that switch it off."""

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

PLAIN: dict[str, Any] = {
    "weights": "minmax", "activations": "minmax", "importance": "none", "bias_correction": False, "fold_norms": False,
    "softmax": "uniform", "gelu": "uniform", "ridge": False, "rounding": "nearest", "propagate": False,
    "target": "same",
}  # fmt: skip
"""Everything off."""

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
