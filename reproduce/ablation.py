"""The ablation: one choice of the method at a time is changed, all else stays as in the baseline."""

from typing import Any

from reproduce.outcome_figure import draw_rows
from reproduce.plan import Setting, Sweep

#: Factors, the option behind each, and its values; in the table None is called none.
FACTORS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "windows": ("model.windows", ("alternating", "average", "dilated", "none")),
    "fusion": ("model.fusion", ("sincos", "sinsum", "nested", "mean", "sum", "none")),
    "theta": ("model.theta", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "encoding": ("model.encoding", ("bernoulli", "bernoulli-detached", "threshold", "direct")),
    "region threshold": ("model.region_threshold", (None, 0.1, 0.3, 0.6)),
    "reset": ("model.neuron.reset", ("none", "zero", "subtract")),
    "normalisation": ("model.norm", ("none", "batch")),
    # Several choices at once, each as its preset makes them.
    "preset": ("model.preset", ("paper", "modern", "binary")),
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
            Setting(factor, "none" if value is None else str(value), {option: value})
            for factor, (option, values) in FACTORS.items()
            for value in values
        ),
    ],
    reference="baseline",
    draw=draw_rows,
)
