"""The report's figures: validation curves of both runs, and strips of frames.

One palette (Okabe & Ito, told apart by colour-blind readers too) and one set of defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from taehv.config.params import Gate
from taehv.evaluation.report.examples import Decoded, Example, Video
from taehv.evaluation.run_records import HistoryRow, finite
from taehv.runtime import atomic_files

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e3e8ee"
BAND = "#009E73"
LIMIT = "#B00020"
RUN_COLOURS = {"a800_test": "#0072B2", "h100_train": "#D55E00"}
RUN_MARKERS = {"a800_test": "o", "h100_train": "s"}
DPI = 144


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches; drawn without a display and without matplotlib's global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure; the same figure gives the same bytes."""
    with atomic_files.replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


# --- curves

BAND_STEPS = (100, 1_000, 5_000, 10_000, 50_000)


@dataclass(frozen=True)
class Curve:
    """One metric of validation_history.json, and the guide's band (low, high) at each of BAND_STEPS."""

    key: str
    label: str
    band: tuple[tuple[float, float], ...]
    digits: int = 3


CURVES = (
    Curve("psnr", "PSNR, dB", ((18, 22), (25, 28), (27, 30), (28, 31), (29, 32)), digits=2),
    Curve("ssim", "SSIM", ((0.70, 0.80), (0.85, 0.90), (0.88, 0.92), (0.90, 0.94), (0.92, 0.95))),
    Curve("lpips", "LPIPS (lower is better)", ((0.15, 0.25), (0.10, 0.15), (0.08, 0.12), (0.06, 0.10), (0.05, 0.08))),
)

Series = list[tuple[int, float]]
"""Steps, and the metric there."""


def write_curves(histories: Mapping[str, Sequence[HistoryRow]], gate: Gate, path: Path) -> None:
    """One panel per metric that some run measured; steps on a logarithmic axis, so without step 0.

    Args:
        histories: by the run's name.
        gate: its step and limit are drawn into the PSNR panel.
        path: the PNG to write.
    """
    measured = {curve: {run: series(rows, curve.key) for run, rows in histories.items()} for curve in CURVES}
    shown = {curve: runs for curve, runs in measured.items() if any(runs.values())} or {CURVES[0]: {}}
    last = max((step for runs in shown.values() for line in runs.values() for step, _ in line), default=BAND_STEPS[1])
    right = next((step for step in BAND_STEPS if step > last), last) * 1.25
    figure = new_figure(5.2 * len(shown) + 0.4, 4.4)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (curve, runs) in zip(axes, shown.items(), strict=True):
        _draw_band(axis, curve, right)
        for run, line in runs.items():
            _draw_run(axis, curve, run, line)
        if curve.key == "psnr":
            _draw_gate(axis, gate)
        _decorate(axis, curve, right)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    save_png(figure, path)


def series(rows: Sequence[HistoryRow], key: str) -> Series:
    """The metric where it was measured, from the first step after 0."""
    values = ((row["step"], finite(row.get(key))) for row in rows)
    return [(step, value) for step, value in values if value is not None and step > 0]


def _draw_band(axis: Axes, curve: Curve, right: float) -> None:
    steps = [*BAND_STEPS, max(right, BAND_STEPS[-1])]
    low, high = zip(*curve.band, curve.band[-1], strict=True)
    axis.fill_between(steps, low, high, color=BAND, alpha=0.13, linewidth=0, label="expected by the guide (full scale)")
    for step, (bottom, top) in zip(BAND_STEPS, curve.band, strict=True):
        axis.plot([step, step], [bottom, top], color=BAND, linewidth=3, alpha=0.55, solid_capstyle="butt")


def _draw_run(axis: Axes, curve: Curve, run: str, line: Series) -> None:
    if not line:
        return
    steps, values = zip(*line, strict=True)
    # A long run has many validations: marks on some of them keep the line readable.
    axis.plot(
        steps,
        values,
        color=RUN_COLOURS.get(run, INK),
        marker=RUN_MARKERS.get(run, "D"),
        markevery=-(-len(steps) // 12),
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linewidth=1.8,
        label=run,
    )
    # The runs often end close together: one value above its line, the other below.
    below = run == "a800_test"
    axis.annotate(
        f"{values[-1]:.{curve.digits}f}",
        (steps[-1], values[-1]),
        xytext=(0, -9 if below else 9),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        fontsize=8.5,
        fontweight="bold",
        color=RUN_COLOURS.get(run, INK),
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=5,
    )


def _draw_gate(axis: Axes, gate: Gate) -> None:
    label = f"gate: > {gate.min_psnr_db:g} dB at step {gate.step:,}"
    axis.plot(
        [gate.step],
        [gate.min_psnr_db],
        linestyle="none",
        marker="_",
        markersize=26,
        markeredgewidth=2.2,
        color=LIMIT,
        label=label,
    )


def _decorate(axis: Axes, curve: Curve, right: float) -> None:
    axis.set_xscale("log")
    axis.set_xlim(right=right)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("step", color=MUTED, fontsize=9)
    axis.set_title(curve.label, loc="left", color=INK, fontsize=11, fontweight="bold")
    axis.tick_params(colors=MUTED, labelsize=9, length=0, which="both")
    axis.grid(True, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)


# --- strips

MAX_FRAMES = 6
ERROR_GAIN = 4
CELL_INCHES = 1.3
LABEL_INCHES = 1.5

Row = tuple[str, str, Video | npt.NDArray[np.float32]]
"""Title, subtitle, and images (T, H, W, 3) or errors (T, H, W) in [0, 1]."""


def write_strip(example: Example, path: Path) -> None:
    """One clip: frames from left to right; original, then per codec its reconstruction and error x 4."""
    shown = np.unique(np.linspace(0, len(example.original) - 1, MAX_FRAMES).round().astype(int))
    rows = list(_rows(example))
    height, width = example.original.shape[1:3]
    cell_height = CELL_INCHES * height / width
    figure = new_figure(LABEL_INCHES + CELL_INCHES * len(shown), 0.55 + (cell_height + 0.05) * len(rows))
    axes = figure.subplots(len(rows), len(shown), squeeze=False)
    for row, (title, subtitle, images) in enumerate(rows):
        for column, frame in enumerate(shown):
            axis = axes[row, column]
            # Errors run from 0 to 1 on a scale whose brightness rises evenly.
            axis.imshow(images[frame], interpolation="nearest", cmap="magma", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"frame {frame}", fontsize=8, color=MUTED, pad=3)
        label = axes[row, 0]
        label.text(
            -0.08,
            0.56,
            title,
            transform=label.transAxes,
            ha="right",
            va="bottom",
            fontsize=9,
            color=INK,
            fontweight="bold",
        )
        label.text(-0.08, 0.50, subtitle, transform=label.transAxes, ha="right", va="top", fontsize=8, color=MUTED)
    save_png(figure, path)


def _rows(example: Example) -> Iterator[Row]:
    yield "original", f"from frame {example.record.first_frame}", example.original
    for name, decoded in example.decoded.items():
        yield name, f"{decoded.psnr_db:.2f} dB", decoded.video
        yield f"error x {ERROR_GAIN}", name, _error(example.original, decoded)


def _error(original: Video, decoded: Decoded) -> npt.NDArray[np.float32]:
    """Mean absolute error over the colours, enlarged, in [0, 1]."""
    difference = np.abs(original.astype(np.float32) - decoded.video.astype(np.float32)).mean(axis=-1) / 255
    enlarged: npt.NDArray[np.float32] = np.minimum(difference * ERROR_GAIN, 1.0)
    return enlarged
