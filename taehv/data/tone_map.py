"""HDR frames as SDR ones, by the rules of the ITU.

1. R'G'B' (BT.2020 primaries) to light, in cd/m2: PQ by its curve (BT.2100 table 4), HLG by its curve and its
   opto-optical transfer for a display of 1,000 cd/m2, so with a system gamma of 1.2 (BT.2100 table 5).
2. Light up to 1,000 cd/m2 (brighter is cut there) to at most 203 cd/m2, HDR reference white (BT.2408), by the curve of
   BT.2390 (EETF, section 5.4.1), applied to the largest of R, G and B; the others keep their ratio to it.
   The curve leaves what is below 91 cd/m2 as it is: a scene that was graded as SDR comes back as it was.
3. BT.2020 primaries to BT.709 (BT.2087); what lies outside is cut off.
4. 203 cd/m2 is white; light to R'G'B' by the inverse of BT.1886's display curve, a power of 1/2.4.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Transfer = Literal["pq", "hlg"]

SOURCE_PEAK = 1000.0
"""cd/m2 of the display that the video was made for: BT.2100's nominal one for HLG, the usual one for PQ."""
TARGET_PEAK = 203.0
"""cd/m2 that become white: the reference white of HDR (BT.2408)."""

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
"""BT.2100 table 4."""
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
"""BT.2100 table 5."""
_HLG_GAMMA = 1.2
_LUMA = np.array([0.2627, 0.6780, 0.0593])
"""Of light with BT.2020 primaries."""
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""BT.2087, annex 2."""


def tone_mapped(frame: npt.NDArray[np.uint16], transfer: Transfer) -> npt.NDArray[np.uint8]:
    """A BT.2020 frame (H, W, 3) of 16-bit full-range R'G'B' as BT.709 R'G'B' of 8 bits."""
    light = light_of(frame.astype(np.float32) / np.float32(65535), transfer)
    largest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    light *= compressed(largest) / largest
    sdr = np.clip(light @ _TO_BT709.T / TARGET_PEAK, 0, 1)
    return np.rint(255 * sdr ** (1 / 2.4)).astype(np.uint8)


def light_of(signal: npt.NDArray[np.floating], transfer: Transfer) -> npt.NDArray[np.floating]:
    """R'G'B' (..., 3) in [0, 1] as cd/m2 on the display."""
    if transfer == "pq":
        return pq_light(signal)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)
    luma = np.maximum((scene @ _LUMA)[..., None], 1e-9)
    return SOURCE_PEAK * luma ** (_HLG_GAMMA - 1) * scene


def pq_light(signal: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """PQ's signal in [0, 1] as cd/m2, 0 to 10,000."""
    root = signal ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def pq_signal(light: npt.NDArray[np.floating] | float) -> npt.NDArray[np.floating]:
    """The inverse of ``pq_light``."""
    power = (np.asarray(light) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def compressed(light: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """BT.2390's curve from a display of ``SOURCE_PEAK`` to one of ``TARGET_PEAK``, both black at 0: cd/m2 to cd/m2."""
    peak = pq_signal(SOURCE_PEAK)
    relative = np.minimum(pq_signal(light) / peak, 1)
    limit = pq_signal(TARGET_PEAK) / peak
    knee = 1.5 * limit - 0.5
    t = np.clip((relative - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * limit
    return pq_light(np.where(relative < knee, relative, bent) * peak)
