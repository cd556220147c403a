"""From an image file's bytes, or an image of Pillow's, to pixels: (H, W, C) uint8, C = 1 (grey) or 3 (colour)."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from onespike.errors import OnespikeError, lacks_memory, reason

#: The formats that are read, most common first. Pillow knows more, but tries all of them on each image, and some of
#: those (PostScript, for one) start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
#: The endings of their file names.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: Of an interlaced PNG's seven passes: the first pixel across and down, and the steps.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_GREY_MODES = ("1", "L", "LA", "La")
#: How to turn an image that has an orientation by its EXIF.
_TURN = Image.Transpose
_TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE}
_TURNS |= {6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}


def decode(data: bytes, origin: str, channels: int | None = None) -> np.ndarray:
    """Decode an image file: JPEG, PNG, WebP, BMP, GIF, PPM or TIFF, turned as its EXIF says; transparency is dropped.

    One channel converts to grey, 3 to colour; None is grey if it is stored so, else colour. An image that is damaged,
    has more than 8 bits a channel, or more pixels than Pillow takes without a warning is an OnespikeError, which names
    the origin.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                # Some cameras put a second one into a JPEG, for depth or as a preview.
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    raise OnespikeError(f"{origin}: several images in one file; expected one; save that alone")
                _expect_8_bits(image, origin)
                pixels = _pixels(_upright(image), channels)
                if image.format == "PNG":
                    _expect_whole_png(data)
                return pixels
    except OnespikeError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        expected = f"expected at most {Image.MAX_IMAGE_PIXELS:,}"
        raise OnespikeError(f"{origin}: too many pixels ({reason(error)}); {expected}; shrink it") from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        if lacks_memory(error):
            raise
        # Pillow's own message ends in the address of the buffer it was given, which tells a user nothing.
        said = type(error).__name__ if "BytesIO" in str(error) else str(error).partition("\n")[0]
        raise OnespikeError(f"{origin}: corrupt image ({said}); expected a whole one; restore it") from error


def _expect_whole_png(data: bytes) -> None:
    """Raise a ValueError where rows are missing, or the end: Pillow makes such rows black."""
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at + 8 <= len(data) and not (chunks and chunks[-1][0] == b"IEND"):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += size + 12
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    grids = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7] if interlaced else []
    rows = sum(high * (1 + (wide * bits + 7) // 8) for wide, high in grids or [(width, height)] if wide > 0)
    unpack, found = zlib.decompressobj(), 0
    for part in (one for kind, one in chunks if kind == b"IDAT"):
        while part and found < rows:  # more than the image has could be a thousand times the file
            found += len(unpack.decompress(part, 1 << 20))  # a piece at a time: all rows take as much as the image
            part = unpack.unconsumed_tail
    if found < rows or chunks[-1][0] != b"IEND":
        raise ValueError("its end is missing")


def uint8_pixels(image: Any, origin: str) -> np.ndarray:
    """Take a raw image from a user's data set: Pillow's, or uint8 (H, W), (H, W, C) or (C, H, W).

    An image of Pillow's is turned by its EXIF as long as it is the file's: what its owner has turned or resized still
    has that tag. Where both the first and the last axis could be channels, a tensor's are first and an array's are
    last. Anything else is an OnespikeError, which names the origin.
    """
    if isinstance(image, Image.Image):
        _expect_8_bits(image, origin)
        return _pixels(_upright(image) if isinstance(image, ImageFile.ImageFile) else image)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    first, last = (pixels.ndim == 3 and pixels.shape[axis] in (1, 3) for axis in (0, -1))
    if pixels.dtype != np.uint8 or not (first or last):
        expected = "expected a Pillow image or uint8 with 1 or 3 channels, or floats (C, H, W) throughout"
        raise OnespikeError(f"{origin}: an image of {pixels.dtype}, shape {pixels.shape}; {expected}; convert it")
    return pixels.transpose(1, 2, 0) if first and not (last and isinstance(image, np.ndarray)) else pixels


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says. Pillow's own function writes the EXIF anew, and fails if a field is broken."""
    image.load()  # which may read the EXIF, and turns a TIFF
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """Raw pixels (H, W, 1 or 3), uint8, as an image of Pillow's."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` and keep the centre square."""
    made = ImageOps.fit(as_picture(pixels), (size, size), Image.Resampling.BICUBIC)
    return np.asarray(made).reshape(size, size, pixels.shape[2])


def _is_deep(tile: Any) -> bool:
    """Whether Pillow would silently cut the pixels of a part of a file to 8 bits."""
    codec, arguments = tile[0], tile[3]
    if isinstance(arguments, tuple) and codec.startswith("ppm") and isinstance(arguments[-1], int):
        return arguments[-1] > 255
    return ";16" in str(arguments) and "BGR;16" not in str(arguments)  # a BMP's 16 bits are those of three channels


def _expect_8_bits(image: Image.Image, origin: str) -> None:
    if image.mode.startswith(("I", "F")) or any(map(_is_deep, getattr(image, "tile", ()))):
        raise OnespikeError(f"{origin}: more than 8 bits a channel (mode {image.mode}); expected 8; convert it")


def _pixels(image: Image.Image, channels: int | None = None) -> np.ndarray:
    channels = channels or (1 if image.mode in _GREY_MODES else 3)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)
