"""Frames of events as pictures: red where it became brighter, blue where it became darker."""

import io

import numpy as np
from PIL import Image

from onespike.data.sources.image import as_picture

#: Side in pixels that small frames are enlarged to in a GIF, and milliseconds for which each is shown.
_SIDE, _SHOWN = 256, 200


def picture(raw: np.ndarray) -> np.ndarray:
    """Make pixels (H, W, 1 or 3), uint8, of a raw image (H, W, C), if it is one, or of frames (H, W, T, C).

    Events of all frames are added up. Without a map, as from a cochlea, channels run down and frames to the right.
    """
    if raw.ndim == 3 and raw.shape[2] in (1, 3):
        return raw
    frames = raw if raw.ndim == 4 else raw[:, :, None]
    if frames.shape[:2] == (1, 1):
        return _scaled(frames[0, 0].T[:, :, None].astype(float))
    return _coloured(frames.sum(2, dtype=float))


def animation(raw: np.ndarray) -> bytes:
    """Make a GIF of frames (H, W, T, C), one after the other."""
    frames = raw.astype(float)
    if frames.shape[:2] == (1, 1):  # a row of channels for each frame
        frames = frames[0, 0].T[:, None, :, None]
    most = frames.max() or 1.0
    shown = []
    for number in range(frames.shape[2]):
        coloured = _coloured(frames[:, :, number], most)
        image = as_picture(coloured)
        times = max(1, _SIDE // max(image.size))
        shown.append(image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST))
    file = io.BytesIO()
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=_SHOWN, loop=0)
    return file.getvalue()


def _coloured(counts: np.ndarray, most: float | None = None) -> np.ndarray:
    if counts.shape[2] != 2:
        return _scaled(counts.sum(2, keepdims=True), most)
    darker, brighter = np.moveaxis(counts, 2, 0)
    return _scaled(np.stack([brighter, np.minimum(brighter, darker), darker], 2), most)


def _scaled(values: np.ndarray, most: float | None = None) -> np.ndarray:
    return np.rint(255 * np.minimum(values / (most or values.max() or 1.0), 1)).astype(np.uint8)
