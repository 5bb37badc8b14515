"""Plots expected KL over size, where a recipe was made for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import on_log
from .scales import LogScale, write_number
from .svg import ACCENT, INK, Plot, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_frontier(budget: dict[str, Any]) -> Plot:
    """Draw the best recipes of every size, and the one that was chosen.

    Args:
        budget: as ``schema.json`` describes it.
    """
    bits, kl = (
        np.array([one[name] for one in budget["frontier"]], np.float64)
        for name in ("bits_per_weight", "kl")
    )
    chosen = budget["chosen"]
    axis = LogScale.over(np.append(kl, chosen["kl"]))

    def paint(axes: Axes, is_wide: bool) -> None:
        axes.plot(bits, axis.place(kl), color=INK, linewidth=1.2)
        point = np.array([chosen["kl"]])
        size = 7 if is_wide else 5
        axes.plot([chosen["bits_per_weight"]], axis.place(point), "o", color=ACCENT, ms=size)
        on_log(axes, axis, title="expected mean KL, nats")
        axes.set_xlabel("bits per weight, over all files of weights")

    words = (
        f"Line: expected mean KL of the best recipe over its size, on a logarithmic scale, from "
        f"{write_number(float(kl[0]))} at {bits[0]:.2f} bits per weight to "
        f"{write_number(float(kl[-1]))} at {bits[-1]:.2f}. The recipe of this artifact has "
        f"{chosen['bits_per_weight']:.2f} bits and {write_number(chosen['kl'])}."
    )
    return draw("frontier", words, paint, height=2.8)
