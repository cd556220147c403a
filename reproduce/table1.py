"""Table 1: the volume S(theta) below the fusion surface, and what it lacks to the plane, grad D.

S(theta) = 16 sin(3 theta pi th / 2) sin(theta pi th / 4)^2 / (theta^2 pi^2)           Eq. 6
grad D   = S(theta) - integral of X + Y = S(theta) - 3 th^3                            over X, Y in [th, 2 th]
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.integrate import dblquad

from onespike.functional import fuse
from onespike.search.drawing import make_plain
from reproduce.published import TABLE1
from reproduce.report import Table, write_report

#: The threshold for which the supplement prints the table.
TH = 0.5
THETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def volume(theta: float) -> float:
    """S(theta) by the supplement's formula, Eq. 6: the volume below the fusion surface over X, Y in [th, 2 th]."""
    sines = math.sin(1.5 * theta * math.pi * TH) * math.sin(theta * math.pi * TH / 4) ** 2
    return 16 * sines / (theta * math.pi) ** 2


def integrated_volume(kind: str, theta: float) -> float:
    """The same volume by numerical integration of a fusion of the networks; that of `sincos` must equal `volume`."""

    def height(y: float, x: float) -> float:
        return fuse(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64), kind, theta).item()

    found, _ = dblquad(height, TH, 2 * TH, TH, 2 * TH, epsabs=1e-10, epsrel=1e-10)
    return found


def truncated(value: float) -> float:
    """Cut a number off after two digits, as the supplement's table does."""
    return math.trunc(100 * value) / 100


def table1(out: Path = Path("results")) -> None:
    """S(theta) and grad D by formula and by numerical integration, beside Table 1.

    Args:
        out: Folder for table1.csv, table1.md and table1.png.
    """
    plane = integrated_volume("sum", 1.0)
    rows: list[list[Any]] = []
    for theta in THETAS:
        by_formula, integral = volume(theta), integrated_volume("sincos", theta)
        differences = by_formula - 3 * TH**3, integral - plane
        published, agrees = TABLE1.get(theta, (None, None)), None
        if theta in TABLE1:
            found = {(truncated(s), truncated(d)) for s, d in zip((by_formula, integral), differences, strict=True)}
            agrees = "yes" if found == {published} else "no"
        rows.append([theta, by_formula, integral, published[0], *differences, published[1], agrees])
    columns = {
        "theta": ".1f",
        "S by Eq. 6": ".4f",
        "S integrated": ".4f",
        "S published": ".2f",
        "grad D by Eq. 6": ".4f",
        "grad D integrated": ".4f",
        "grad D published": ".2f",
        "agree": "",
    }
    table = Table(columns, rows)
    printed = [row for row in rows if row[3] is not None]
    agree = sum(row[7] == "yes" for row in printed)
    rounded = sum((round(row[1], 2), round(row[4], 2)) == (row[3], row[6]) for row in printed)
    gap = max(abs(row[1] - row[2]) for row in rows)
    parts: list[str | Table] = [
        "The volume S below the fusion surface `2 sin(theta pi/2 X) cos(theta pi/2 Y)` over X, Y in [th, 2 th], and "
        f"grad D, what is left of it when the plane X + Y is taken away; th = {TH}.",
        table,
        f"Of the supplement's {len(printed)} columns, {agree} agree to the digit, by formula and by integration, if "
        f"numbers are cut off after two digits as the supplement does; {rounded} would if they were rounded. Formula "
        f"and integral differ by {gap:.0e} at most.",
    ]
    write_report(out, "table1", "Table 1: S(theta) and grad D", table, parts, _draw(rows))


def _draw(rows: list[list]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    thetas = np.linspace(0.02, 1, 200)
    curve = np.array([volume(theta) for theta in thetas])
    names = (("S(theta)", 0.0, 1), ("grad D", 3 * TH**3, 4))
    for axis, (name, plane, column) in zip(figure.subplots(1, 2), names, strict=True):
        axis.plot(thetas, curve - plane, color="C0", label="formula, Eq. 6")
        axis.plot([row[0] for row in rows], [row[column + 1] for row in rows], "o", color="C0", label="integrated")
        printed = [(row[0], row[column + 2]) for row in rows if row[column + 2] is not None]
        crosses = {"color": "C3", "markersize": 9, "markeredgewidth": 2}
        axis.plot(*zip(*printed, strict=True), "x", label="published, cut off after two digits", **crosses)
        axis.set(xlabel="theta", ylabel=name)
        make_plain(axis)
        axis.legend(frameon=False, fontsize=9, loc="lower center")
    return figure
