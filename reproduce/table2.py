"""Table 2: every unit on CIFAR-10 and CIFAR-100, under one budget."""

from reproduce.outcome_figure import draw_rows
from reproduce.plan import Setting, Sweep
from reproduce.published import ACCURACY

UNITS = ("mlp", "rnn", "birnn", "gru", "lstm", "conv")

TABLE2 = Sweep(
    name="table2",
    title="Table 2: units on CIFAR-10 and CIFAR-100",
    about="The spiking units of the paper, 12 blocks each, in otherwise the same network, trained by the same recipe. "
    "Each is compared with the best unit on its data set. For the MLP on CIFAR-100 the supplement prints a cross, "
    "and does not say what it means.",
    settings=[
        Setting(
            data, unit, {"data.name": data, "model.name": f"{unit}12", "model.unit": unit}, ACCURACY[data].get(unit)
        )
        for data in ("cifar10", "cifar100")
        for unit in UNITS
    ],
    reference="best",
    draw=draw_rows,
)
