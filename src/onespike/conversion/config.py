"""Options of a conversion."""

from dataclasses import dataclass
from typing import Literal

from onespike.configs import check
from onespike.errors import OnespikeError


@dataclass(frozen=True)
class ConversionConfig:
    """How neurons replace activations.

    Attributes:
        time_steps: T, the time steps of the spiking network for one image; logits are averaged.
        neurons: A threshold for each "layer" or, where it folds into the next weights, for each "channel".
        shortcuts: What residual additions read: "spikes", or, where weight layers also read the same activation, its
            "real" value (membrane shortcuts, Hu et al. 2024); then only the weight layers read spikes.
        batch_norm: Whether batch norm is "folded" into the layers before it, or "kept", to be fine-tuned.
        population: How many neurons stand for one activation, their thresholds evenly spaced, 1..16; at one time
            step only.
        allow_real: Leave what cannot be converted real-valued, rather than refuse it.
        surrogate: Surrogate derivative of firing: "rectangle", "triangle", "sigmoid", "arctan" or "gaussian", or one
            that you registered.
        surrogate_width: Width of the surrogate, > 0, in units of one spike.
    """

    time_steps: int = 1
    neurons: Literal["layer", "channel"] = "channel"
    shortcuts: Literal["spikes", "real"] = "spikes"
    batch_norm: Literal["folded", "kept"] = "folded"
    population: int = 1
    allow_real: bool = False
    surrogate: str = "rectangle"
    surrogate_width: float = 1.0

    def __post_init__(self) -> None:
        from onespike.neurons import NeuronConfig  # needs torch, as a help text does not
        from onespike.neurons.integrate_fire import expect_neurons

        check(self, "conversion", time_steps=(1, 1000))
        expect_neurons(self.time_steps, self.population)
        NeuronConfig(surrogate=self.surrogate, surrogate_width=self.surrogate_width)


@dataclass(frozen=True)
class Calibration:
    """How thresholds are found and errors corrected; the defaults are measured in `docs/conversion.md`.

    Attributes:
        thresholds: "maximum" of the activations, "percentile" of them, or "error": the share of the percentile with the
            least error at that number of time steps.
        percentile: Which percentile of a channel's activations, those that are 0 included; their maximum where it is
            less than a hundredth of that.
        correct: What is fitted in each weight layer: "none", its "bias", or its "weights" as well.
        ridge: Pull of the fitted weights towards the artificial ones, in units of the inputs' mean square.
    """

    thresholds: Literal["maximum", "percentile", "error"] = "error"
    percentile: float = 99.9
    correct: Literal["none", "bias", "weights"] = "weights"
    ridge: float = 0.1

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.percentile <= 100:
            raise OnespikeError(f"percentile: expected 0 < percentile <= 100, got {self.percentile}")
        if self.ridge <= 0:
            raise OnespikeError(f"ridge: expected a finite number above 0, got {self.ridge}")
        if self.thresholds == "maximum" and self.percentile != Calibration.percentile:
            raise OnespikeError("percentile: it needs thresholds error or percentile; leave it out, or set that")
        if self.correct != "weights" and self.ridge != Calibration.ridge:
            raise OnespikeError("ridge: it needs correct weights; leave it out, or set that")
