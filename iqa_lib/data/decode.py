"""One image file to pixels: any mode and size, reduced to its working size.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from iqa_lib.errors import ImageError
from iqa_lib.profile import Preparation

LONGEST = 50  # times the short side: a strip enlarged to the crop size would fill the memory
REDUCING_GAP = 2  # a photograph is opened at no less than this many times its working size, if it has that
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width

Image.init()
FORMATS = tuple(name for name in Image.OPEN if name != "EPS")  # a program, which Pillow has Ghostscript run


def open_image(path: str | Path) -> Image.Image:
    """Pillow's image, not decoded yet; a file is data: formats whose reader runs a program are left out."""
    return Image.open(path, formats=FORMATS)


def decode(path: str | Path, resolution: int, crop_size: int) -> np.ndarray:
    """Read any image file as upright RGB, uint8 H x W x 3, at working size.

    The first frame of an animation; transparent parts on white, as on a web page; 16-bit grey scaled to 8 bit;
    CMYK without its colour profile. Images of up to 178 million pixels (Pillow's own limit). Where it is more than
    twice as large as needed, a JPEG is decoded at a half, a quarter or an eighth of its size.

    Raises:
        ImageError: the file is no image, is damaged, or is too large or too long a strip.
    """
    with quiet_pillow():
        return read_image(path, WorkingSize(resolution, crop_size))


def read_image(source: str | Path | Image.Image, size: WorkingSize) -> np.ndarray:
    """As `decode`, of a file or of Pillow's image; for threads, because `quiet_pillow` is the caller's."""
    try:
        with source.copy() if isinstance(source, Image.Image) else open_image(source) as file:
            _refuse_strip(*file.size)
            height, width = file.height, file.width
            if file.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                height, width = width, height
            height, width = size.of(height, width)
            if not size.portrait:  # the reference code's way is kept to the bit
                file.draft(None, (REDUCING_GAP * min(height, width),) * 2)
            ImageOps.exif_transpose(file, in_place=True)
            image = _to_rgb(file)
            if image.size != (width, height):
                gap = None if size.portrait else REDUCING_GAP
                image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=gap)
            return np.asarray(image)
    except Exception as error:  # a damaged header makes Pillow's readers raise anything
        raise ImageError(source, _explain(source, error)) from error


def decode_whole(path: str | Path) -> np.ndarray:
    """As `decode`, at its own size."""
    return read_image(path, WorkingSize(sys.maxsize, 1))


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings (size, EXIF, palette) off the screen: a file is used or refused, not commented."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _explain(source: str | Path | Image.Image, error: Exception) -> str:
    if not isinstance(source, Image.Image) and Path(source).is_file() and not Path(source).stat().st_size:
        return "is empty (0 bytes)"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"may not be read ({error.strerror})"
    if isinstance(error, UnidentifiedImageError):
        return "is no image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"is larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit, of either byte order, or 32
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values of more than 16 bits; save it with 8 or 16 bits per channel")
        image = Image.fromarray(np.round(grey / np.float32(257)).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels of unknown range; save it with 8 or 16 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _refuse_strip(width: int, height: int) -> None:
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"{width} x {height} pixels is a strip longer than {LONGEST} times its short side")


class WorkingSize(NamedTuple):
    """How large an image is after decoding: short side at most ``resolution``, at least ``crop_size``.

    ``portrait``: every image becomes ``resolution`` wide and a third taller, as the reference code's
    ``Resize((512, 384))`` makes it of landscape photographs too.
    """

    resolution: int
    crop_size: int
    portrait: bool = False

    @classmethod
    def of_settings(cls, settings: Preparation) -> WorkingSize:
        return cls(settings.resolution, settings.crop_size, settings.protocol == "paper")

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after decoding; zeros stay zeros."""
        short = min(height, width)
        if not short:
            return height, width
        if self.portrait:
            return max(self.crop_size, round(self.resolution * 4 / 3)), max(self.crop_size, self.resolution)
        wanted = min(short, self.resolution) if short >= self.crop_size else self.crop_size
        if wanted == short:
            return height, width
        return tuple(max(self.crop_size, round(side * wanted / short)) for side in (height, width))


def read_size(path: str | Path) -> tuple[int, int]:
    """As `read_sizes`, of one file and without its quiet."""
    try:
        with open_image(path) as file:
            _refuse_strip(*file.size)
            return file.height, file.width
    except Exception:  # reported by `decode`
        return 0, 0
