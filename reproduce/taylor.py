"""Eq. 3-5 of the supplement, checked on a trained RNN-SNN.

eta counts the blocks, v the windows. Of every neuron of a block, at the moment of firing:

    down    = V[eta, v] - V[eta-1, v]                         first difference over depth
    across  = V[eta, v] - V[eta, v-1]                         first difference over windows
    mixed   = V[eta, v] - V[eta-1, v] - V[eta, v-1] + V[eta-1, v-1]           the supplement: it vanishes
    Eq. 4   = down + across
    Eq. 5   = V[eta, v] - alpha V[eta-1, v-1]                                  the supplement: what Eq. 4 comes to

V[eta-1, v] is what block eta receives: the potential map of the block before, cut into the windows of block eta.
Exactly, Eq. 4 = V[eta, v] - V[eta-1, v-1] + mixed: the step to Eq. 5 is that mixed = 0, and that alpha stands before
V[eta-1, v-1].
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from onespike.errors import OnespikeError
from onespike.models import Network, expect_blocks
from onespike.search.drawing import make_plain
from onespike.training.run import Run
from reproduce.potentials import Finding, Potentials, analyse, record
from reproduce.report import Table, write_report
from reproduce.trained import describe, expect_images, open_or_train, some_test_images

#: What the small network changes in the recipe "digits": an LSTM unit, and blocks that have one before them in a stage.
SMALL = {
    "model.unit": "lstm",
    "model.depths": [3, 3],
    "model.channels": [16, 32],
    "train.epochs": 6,
    "train.warmup_epochs": 1,
}
#: Points that the scatter plot shows.
POINTS = 4000


def taylor(
    out: Path = Path("results"), run: Path | None = None, images: int = 64, work: Path = Path("runs/paper")
) -> None:
    """Eq. 3-5 on a trained RNN-SNN: mixed second differences of V over depth and windows, and what Eq. 5 makes of them.

    Args:
        out: Folder for taylor.csv, taylor.md and taylor.png.
        run: Run folder of a trained RNN-SNN; by default a small one, with an LSTM, is trained on the digits.
        images: Test images on which potentials are recorded, at most.
        work: Folder in which the small network is trained.
    """
    expect_images(images)
    trained = open_or_train(run, "taylor-digits", SMALL, work)
    checkpoint = trained.checkpoint("best")
    network = expect_blocks(checkpoint.network(), checkpoint.card.name)
    config, neuron = network.config, network.config.neuron
    _expect_travelling(network, trained)
    batches = [batch for batch, _ in some_test_images(trained, checkpoint, images)]
    seen = record(network, batches)
    if not seen:
        raise OnespikeError(f"{trained.folder}: no block follows another one in its stage; expected a deeper network")
    findings = [analyse(one, neuron.decay) for one in seen]
    columns = {
        "block": "d",
        "V": ".3f",
        "down": ".3f",
        "across": ".3f",
        "mixed": ".3f",
        "mixed if unrelated": ".3f",
        "Eq. 4 - Eq. 5": ".1%",
        "with alpha = 1": ".1%",
        "best alpha": ".2f",
        "correlation of Eq. 5 with I": ".3f",
        "of V with I": ".3f",
        "recursion, largest error": ".0e",
    }
    table = Table(columns, [list(vars(one).values()) for one in findings])
    count = sum(len(batch) for batch in batches)
    parts: list[str | Table] = [
        f"Of {describe(checkpoint, config)}, fusion `{config.fusion}`, alpha = {neuron.decay:g}, on {count} test "
        "images. Sizes are root mean squares over neurons, images and windows 2 to 4. V[eta-1, v] is what block eta "
        "receives: the map of the block before, cut into the windows of block eta. Blocks behind a patch merging are "
        "left out, since the map above has other channels.",
        "- down = V[eta, v] - V[eta-1, v]\n- across = V[eta, v] - V[eta, v-1]\n"
        "- mixed = V[eta, v] - V[eta-1, v] - V[eta, v-1] + V[eta-1, v-1]: 0, says the supplement\n"
        "- Eq. 4 = down + across; Eq. 5 = V[eta, v] - alpha V[eta-1, v-1]; their difference in percent of Eq. 4\n"
        "- I: what the unit's layer delivers; the last column checks that V = alpha Omega + I holds in the record",
        table,
        _remark(findings, neuron.decay),
    ]
    title, figure = "Eq. 3-5: the potential over depth and windows", _draw(findings, seen, neuron.decay)
    write_report(out, "taylor", title, table, parts, figure)


def _expect_travelling(network: Network, run: Run) -> None:
    config = network.config
    if not network.blocks()[0].unit.travels:
        raise OnespikeError(
            f"{run.folder} is no RNN-SNN: with the unit {config.unit} and fusion {config.fusion} no potential travels "
            "from block to block; expected a run with the unit lstm, gru, rnn, … or mlp, and a fusion"
        )
    if config.time_steps > 1 or config.windows == "none" or config.neuron.learnable_decay != "none":
        raise OnespikeError(
            f"{run.folder}: expected one time step, four windows and a constant decay, got {config.time_steps} time "
            f"steps, windows {config.windows}, learnable_decay {config.neuron.learnable_decay}"
        )


def _remark(findings: list[Finding], alpha: float) -> str:
    """What the numbers say, also against the paper."""

    def span(values: list[float]) -> str:
        return f"{min(values):.2f} to {max(values):.2f}"

    first = [one.mixed / max(one.down, one.across) for one in findings]
    unrelated = [one.mixed / one.expected for one in findings]
    better = sum(one.error_without_alpha < one.error for one in findings)
    vanishes = max(first) < 0.1
    return (
        f"The mixed second difference {'nearly vanishes' if vanishes else 'does not vanish'}: it is {span(first)} "
        f"times the larger of the two first differences, and {span(unrelated)} times what it would be if the four "
        "potentials in it had nothing to do with each other. Eq. 5 differs from Eq. 4 by "
        f"{span([one.error for one in findings])} of Eq. 4's size; with 1 in place of alpha the difference, which is "
        f"then the mixed difference alone, is {span([one.error_without_alpha for one in findings])}, smaller in "
        f"{better} of {len(findings)} blocks. Exactly, Eq. 4 = V[eta, v] - V[eta-1, v-1] + mixed, so a vanishing mixed "
        f"difference would give Eq. 5 with alpha = 1, not {alpha:g}; the alpha that fits best is "
        f"{span([one.best_alpha for one in findings])}. As a reading of the current I, Eq. 5 (correlation "
        f"{span([one.correlation for one in findings])}) is to be compared with V itself "
        f"({span([one.plain_correlation for one in findings])})."
    )


def _draw(findings: list[Finding], seen: list[Potentials], alpha: float) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    sizes, errors, cloud = figure.subplots(1, 3)
    positions = torch.arange(len(findings)).double()
    names = [str(one.block) for one in findings]
    for number, (field, label) in enumerate(
        (("down", "down"), ("across", "across"), ("mixed", "mixed (claimed: 0)"), ("expected", "mixed if unrelated"))
    ):
        values = [getattr(one, field) for one in findings]
        colour = "lightgrey" if field == "expected" else f"C{number}"
        sizes.bar((positions + 0.2 * (number - 1.5)).tolist(), values, 0.2, color=colour, label=label)
    sizes.set_title("differences of V, root mean square", loc="left", fontsize=10)
    sizes.set_ylim(0, 1.35 * max(max(one.expected, one.mixed, one.down, one.across) for one in findings))
    sizes.legend(frameon=False, fontsize=8.5, ncols=2)
    errors.bar(
        (positions - 0.2).tolist(), [100 * one.error for one in findings], 0.4, label=f"alpha = {alpha:g}, the run's"
    )
    errors.bar((positions + 0.2).tolist(), [100 * one.error_without_alpha for one in findings], 0.4, label="alpha = 1")
    errors.set_title("Eq. 4 - Eq. 5, % of Eq. 4", loc="left", fontsize=10)
    errors.set_ylim(0, 1.25 * 100 * max(max(one.error, one.error_without_alpha) for one in findings))
    errors.legend(frameon=False, fontsize=8.5)
    for axis in (sizes, errors):
        axis.set_xticks(positions.tolist(), names)
        axis.set_xlabel("block")
    later, earlier = slice(1, None), slice(None, -1)
    here, before = (torch.cat([one.here[part].flatten() for one in seen]) for part in (later, earlier))
    above, corner = (torch.cat([one.above[part].flatten() for one in seen]) for part in (later, earlier))
    some = torch.linspace(0, len(here) - 1, min(POINTS, len(here))).long()
    eq4, eq5 = (2 * here - above - before)[some], (here - alpha * corner)[some]
    cloud.plot(eq4, eq5, ".", markersize=2, alpha=0.3, rasterized=True)
    low, high = min(eq4.min().item(), eq5.min().item()), max(eq4.max().item(), eq5.max().item())
    cloud.plot((low, high), (low, high), "k--", linewidth=1, label="equal")
    cloud.set(xlabel="Eq. 4: down + across", ylabel=f"Eq. 5: V[eta,v] - {alpha:g} V[eta-1,v-1]")
    cloud.set_title("neurons of all blocks", loc="left", fontsize=10)
    cloud.legend(frameon=False, fontsize=8.5)
    for axis in (sizes, errors, cloud):
        make_plain(axis)
        axis.set_axisbelow(True)
    return figure
