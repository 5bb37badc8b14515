"""Plots mean KL over bits per weight, with both families and the Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .rows import LLAMA_CPP, OURS

_STYLES = {OURS: ("#1f5f8b", "o", (6, -10)), LLAMA_CPP: ("#b35c1e", "s", (6, 5))}
_GRID, _FRONT = "#d9dee5", "#5b6675"


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the quantized formats that were measured; SVG or PNG, by the file's suffix."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = [one for one in report["rows"] if one["is_quantized"] and one.get("mean_kl")]
    with mpl.rc_context({"svg.hashsalt": "tramontane", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        front = sorted(
            (one["bits_per_weight"], one["mean_kl"]) for one in rows if one["is_on_front"]
        )
        if front:
            axes.step(
                *zip(*front, strict=True),
                where="post",
                color=_FRONT,
                linewidth=1,
                linestyle="--",
                label="Pareto front",
                zorder=1,
            )
        for family, (color, marker, offset) in _STYLES.items():
            own = [one for one in rows if one["family"] == family]
            for one in own:
                point = one["bits_per_weight"], one["mean_kl"]
                face = color if one["is_on_front"] else "none"
                axes.plot(*point, marker, color=color, markerfacecolor=face)
                axes.annotate(
                    one["name"].removeprefix(f"{family} "),
                    point,
                    offset,
                    textcoords="offset points",
                    fontsize=8,
                    color=color,
                )
            axes.plot([], [], marker, color=color, label=family)
        axes.set(
            title=f"{report['model']}: mean KL from the unquantized model, nats",
            xlabel="bits per weight, all that ships",
            yscale="log",
        )
        axes.margins(x=0.12, y=0.1)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)
