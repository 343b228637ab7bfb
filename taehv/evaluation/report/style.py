"""How figures look: one palette (Okabe & Ito, told apart by colour-blind readers too) and one set of defaults."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
