"""The one alignment rule: after the decoder's trim, decoded frame j belongs to input frame j."""

from __future__ import annotations

from torch import Tensor


def common_frames(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> tuple[Tensor, Tensor]:
    """Both videos cut to the frames they share: j < min(T, T_decoded).

    Every loss and every metric compares what this returns, and nothing else shifts or cuts frames.
    """
    length = min(decoded_ntchw.shape[1], frames_ntchw.shape[1])
    return decoded_ntchw[:, :length], frames_ntchw[:, :length]
