"""From an image file's bytes to pixels."""

import io

import numpy as np
from PIL import Image, ImageOps

from onespike.errors import OnespikeError

#: The formats that are read, most common first. Pillow knows more, but tries all of them on each image, and some of
#: those (PostScript, for one) start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
#: Pillow's modes with more than 8 bits a channel; converting them would clip the pixels without a word.
_DEEP_MODES = ("I", "F")
_GREY_MODES = ("1", "L", "LA", "La")


def decode(data: bytes, origin: str, channels: int) -> np.ndarray:
    """Decode one image file.

    Args:
        data: The file's bytes: JPEG, PNG, WebP, BMP, GIF, PPM or TIFF.
        origin: Where they come from, for the error.
        channels: 1 converts to grey, 3 to red, green and blue; transparency is dropped.

    Returns:
        (H, W, channels) uint8.

    Raises:
        OnespikeError: The image is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise OnespikeError(
                    f"{origin}: more than 8 bits a channel (mode {image.mode}); expected 8; convert the image first"
                )
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except OnespikeError:
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        raise _corrupt(origin, error) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def is_grey(data: bytes, origin: str) -> bool:
    """Tell from an image file's header whether it is stored in grey.

    Raises:
        OnespikeError: The header is damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.mode in _GREY_MODES
    except Exception as error:  # as above
        raise _corrupt(origin, error) from error


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` and keep the centre square: (H, W, C) uint8 to (size, size, C) uint8."""
    channels = pixels.shape[2]
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(size, size, channels)


def _corrupt(origin: str, error: Exception) -> OnespikeError:
    # Pillow's own message ends in the address of the buffer it was given, which tells a user nothing.
    reason = type(error).__name__ if "BytesIO" in str(error) else str(error).partition("\n")[0]
    return OnespikeError(f"{origin}: corrupt image ({reason}); expected a whole image file; restore or remove it")
