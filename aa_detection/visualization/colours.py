"""Colours shared by all pictures."""

import cv2
import numpy as np


def heat_colours() -> np.ndarray:
    """Return ``(256, 3)`` uint8 RGB, from zero to the largest weight."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1]
