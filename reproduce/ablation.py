"""The ablation: one choice of the method at a time is changed, all else stays as in the baseline."""

from typing import Any

from reproduce.outcome_figure import draw_rows
from reproduce.plan import Setting, Sweep

#: Factors, the option behind each, and its values by their names in the table.
FACTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "windows": ("model.windows", {name: name for name in ("alternating", "average", "dilated", "none")}),
    "fusion": ("model.fusion", {name: name for name in ("sincos", "sinsum", "nested", "mean", "sum", "none")}),
    "theta": ("model.theta", {str(theta): theta for theta in (0.1, 0.3, 0.5, 0.7, 0.9)}),
    "encoding": (
        "model.encoding",
        {name: name for name in ("bernoulli", "bernoulli-detached", "threshold", "direct")},
    ),
    "region threshold": ("model.region_threshold", {"none": None, "0.1": 0.1, "0.3": 0.3, "0.6": 0.6}),
    "reset": ("model.neuron.reset", {name: name for name in ("none", "zero", "subtract")}),
    "normalisation": ("model.norm", {name: name for name in ("none", "batch")}),
    # Several choices at once, each as its preset makes them.
    "preset": ("model.preset", {name: name for name in ("paper", "modern", "binary")}),
}

ABLATION = Sweep(
    name="ablation",
    title="Ablation",
    about="One choice of the method at a time is changed (a preset changes several); all others stay as in the "
    "baseline, the paper's CNN-SNN unless the command below says otherwise. Rows that repeat the baseline's own choice "
    "show the baseline's runs.",
    settings=[
        Setting("baseline", "baseline", {}),
        *(
            Setting(factor, name, {option: value})
            for factor, (option, values) in FACTORS.items()
            for name, value in values.items()
        ),
    ],
    reference="baseline",
    draw=draw_rows,
)
