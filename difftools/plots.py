"""Figures of the book: one style, readable in grey, on a phone and in dark mode (white ground, no
colour alone).
"""

from __future__ import annotations

import base64
import html
import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from torch import Tensor

from .images import to_uint8

MARKERS = "osD^vPX*<>"
LINES = ["-", "--", ":", "-.", (0, (3, 1, 1, 1)), (0, (5, 3)), (0, (1, 2)), (0, (4, 1))]


def use_style() -> None:
    """Set the book's style; call once at the top of a chapter."""
    sns.set_theme(style="whitegrid", palette="colorblind", font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 80,
            "savefig.bbox": "tight",
            "axes.titlesize": 11,
            "legend.frameon": True,
            "lines.linewidth": 1.8,
        }
    )


def strip(
    rows: dict[str, Tensor], scale: float = 0.55, columns: list[str] | None = None
) -> plt.Figure:
    """One row of images for each label; images (n, 3, H, W) in [-1, 1], clipped for display."""
    n = max(len(v) for v in rows.values())
    fig, axes = plt.subplots(
        len(rows), n, figsize=(scale * n + 1.2, scale * len(rows) + 0.1), squeeze=False
    )
    for line, (label, x) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.axis("off")
        for ax, im in zip(line, to_uint8(x.clamp(-1, 1))):
            ax.imshow(im, interpolation="nearest")
        line[0].text(
            -0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9
        )
    for ax, title in zip(axes[0], columns or []):
        ax.set_title(title, fontsize=9)
    fig.subplots_adjust(wspace=0.04, hspace=0.04)
    return fig


def lines(x, series: dict, xlabel: str, ylabel: str, ax=None, log: str = "", **level: float):
    """Curves with intervals: label -> y or (y, low, high); `level` draws named horizontal
    references.
    """
    ax = ax or plt.subplots(figsize=(5.6, 3.4))[1]
    for i, (label, y) in enumerate(series.items()):
        y, *band = y if isinstance(y, tuple) else (y,)
        (h,) = ax.plot(x, y, marker=MARKERS[i % 10], ms=4.5, ls=LINES[i % 8], label=label)
        if band:
            ax.fill_between(x, *band, color=h.get_color(), alpha=0.18, lw=0)
    _finish(ax, xlabel, ylabel, log, level, ticks=x if len(x) <= 9 else None)
    return ax


def dots(series: dict, xlabel: str, ax=None, log: str = "", **level: float):
    """Intervals by category: series label -> {category: (value, low, high)}; categories run down
    the axis.
    """
    names = list(next(iter(series.values())))
    ax = ax or plt.subplots(figsize=(5.6, 0.34 * len(names) * max(1, len(series) / 2.2) + 1))[1]
    for i, (label, points) in enumerate(series.items()):
        v = np.array([points[n] for n in names], dtype=float)
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * 0.7 / len(series)
        err = np.abs(v[:, 1:] - v[:, :1]).T
        ax.errorbar(
            v[:, 0], at, xerr=err, fmt=MARKERS[i % 10], ms=5, capsize=2, lw=1.3, label=label
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    _finish(ax, xlabel, "", log, level, vertical=True)
    return ax


def _finish(ax, xlabel, ylabel, log, level, vertical=False, ticks=None) -> None:
    for i, (name, v) in enumerate(level.items()):
        draw = ax.axvline if vertical else ax.axhline
        draw(v, color="0.25", lw=1.1, ls=LINES[(i + 1) % 8], label=name.replace("_", " "), zorder=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        ax.set_xscale("log")
        if ticks is not None:
            ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
            ax.minorticks_off()
    if "y" in log:
        ax.set_yscale("log")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8)


def table(rows: list[dict], caption: str = "", digits: int = 3):
    """Rows of one shape as an HTML table that scrolls on a phone; numbers to `digits` significant
    digits.
    """
    from IPython.display import HTML

    def cell(v) -> str:
        if isinstance(v, bool) or v is None:
            return {True: "yes", False: "no", None: "–"}[v]
        if isinstance(v, float | np.floating):
            return "–" if np.isnan(v) else f"{v:.{digits}g}" if abs(v) < 10**digits else f"{v:.0f}"
        return html.escape(str(v))

    head = "".join(f"<th>{html.escape(str(k))}</th>" for k in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(v)}</td>" for v in r.values()) + "</tr>" for r in rows
    )
    text = html.escape(caption)
    title = f'<p class="table-caption" style="font-size:85%;margin:0">{text}</p>' if caption else ""
    return HTML(  # the caption stays in place while the table scrolls
        f'{title}<div style="overflow-x:auto;white-space:nowrap;font-size:85%">'
        f'<table class="table" aria-label="{text}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def frame(fig: plt.Figure, dpi: int = 80) -> bytes:
    """A figure as PNG bytes, closed afterwards: one frame of a `slider`."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(fig)
    return buffer.getvalue()


def slider(frames: list[bytes], labels: list[str], name: str, alt: str):
    """An interactive figure without a library: an input of type range over PNG frames (bytes).

    name: unique id on the page. Works offline in the built book and in Jupyter.
    """
    from IPython.display import HTML

    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(f).decode()}" '
        f'alt="{html.escape(alt)}: {html.escape(t)}" data-label="{html.escape(t)}" '
        f'style="max-width:100%;display:{"block" if i == 0 else "none"}">'
        for i, (f, t) in enumerate(zip(frames, labels, strict=True))
    )
    move = (
        "const d=this.closest('.frame-slider');"
        "d.querySelectorAll('img').forEach((e,i)=>{const on=i==this.value;"
        "e.style.display=on?'block':'none';"
        "if(on)d.querySelector('output').textContent=e.dataset.label})"
    )
    return HTML(
        f'<div class="frame-slider" id="{name}">{images}<label>{html.escape(alt)}<br>'
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" '
        f'style="width:min(24em,90%)" oninput="{html.escape(move)}"></label> '
        f"<output>{html.escape(labels[0])}</output></div>"
    )
