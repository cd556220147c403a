"""Figure 1: deeper networks, with the convolutional and the LSTM unit, under one budget."""

from onespike.models.onespike import DEPTHS
from reproduce.outcome_figure import draw_depths
from reproduce.plan import Setting, Sweep

FIGURE1 = Sweep(
    name="figure1",
    title="Figure 1: deeper networks",
    about="The convolutional and the LSTM unit in networks of 12 to 36 blocks on CIFAR-10. Each depth is compared with "
    'the best depth of its unit. The supplement prints a figure, and no numbers: "the model can still be trained '
    'correctly", and "in some cases, deeper networks achieve better accuracy".',
    settings=[
        Setting(unit, str(depth), {"model.name": f"{unit}{depth}", "model.unit": unit, "model.depths": list(blocks)})
        for unit in ("conv", "lstm")
        for depth, blocks in DEPTHS.items()
    ],
    reference="best",
    draw=draw_depths,
)
