"""Strips of frames: the original, and under it each codec's reconstruction and its error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taehv.evaluation.report.examples import Decoded, Example, Video
from taehv.evaluation.report.style import INK, MUTED, new_figure, save_png

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
