"""One image file to pixels: any mode and size, reduced to its working size.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageMode, ImageOps, TiffImagePlugin, UnidentifiedImageError

from iqa_lib.errors import ImageError
from iqa_lib.paths import is_stream
from iqa_lib.profile import Preparation
from iqa_lib.progress import in_a_line

LONGEST = 50  # times the short side: a strip enlarged to the crop size would fill the memory
REDUCING_GAP = 2  # a photograph is opened at no less than this many times its working size, if it has that
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
# Taken from a folder; named themselves, files of other kinds are tried too.
PHOTOGRAPHS = [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2"]
PHOTOGRAPHS += [".heic", ".heif", ".hif", ".mpo"]
RAW = ".dng .cr2 .cr3 .crw .nef .nrw .arw .raf .orf .rw2 .rwl .pef .srw .x3f .3fr .iiq".split()  # noqa: SIM905
NO_PICTURE = "is a camera's raw file, not developed yet: export it as JPEG or TIFF"
AS_8_BITS = "save it with 8 bits per channel, by ImageMagick: magick IN.tif -depth 8 OUT.png, and look at it"
WHITE = (1, 255, 65535)  # of grey in 32 bits, whole numbers or not: taken where the brightest pixel has at least half
HDR = (16, 18)  # PQ and HLG among the transfer characteristics of ITU-T H.273
SAME_COLOURS = 2  # levels of 255: no two programs write the sRGB profile alike
PROBE = Image.fromarray(np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3), -1).reshape(27, 27, 3).astype(np.uint8))

with contextlib.suppress(ImportError):  # an extra: its wheels hold x265, which is under the GPL
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)  # never the small picture in place of the main one
Image.init()
FORMATS = tuple(name for name in Image.OPEN if name != "EPS")  # a program, which Pillow has Ghostscript run


def open_image(path: str | Path) -> Image.Image:
    """Pillow's image, not decoded yet; of a stranger's file, in whose format nothing is run.

    Raises:
        ImageError: it is no file, or one of the TIFF files that Pillow opens and misunderstands.
    """
    if is_stream(Path(path)):  # of which reading may have no end
        raise ImageError(path, "is a pipe or device: save the picture as a file")
    image = Image.open(path, formats=FORMATS)
    if image.format == "TIFF" and (fault := _explain_tiff(image.tag_v2, Path(path).suffix.lower() in RAW)):
        image.close()
        raise ImageError(path, fault)
    return image


def _explain_tiff(tags: TiffImagePlugin.ImageFileDirectory_v2, named_raw: bool) -> str:
    if named_raw or ExifTags.Base.DNGVersion in tags or tags.get(ExifTags.Base.NewSubfileType, 0) & 1:
        return NO_PICTURE  # it opens as its preview
    if (
        tags.get(ExifTags.Base.PlanarConfiguration) == 2
        and tags.get(ExifTags.Base.Compression, 1) == 1
        and 16 in tags.get(ExifTags.Base.BitsPerSample, ())
    ):
        return f"has 16 bits per channel in separate planes: {AS_8_BITS}"
    return ""


def decode(path: str | Path, resolution: int, crop_size: int) -> np.ndarray:
    """Read any image file as upright RGB, uint8 H x W x 3, at working size.

    The main picture of several, the first frame of an animation; transparent parts on white, as on a web page; 16 bits
    scaled to 8, and 32 bits of grey where its range is plain; colours of another profile converted to sRGB. Images of
    up to 178 million pixels (Pillow's own limit). Where it is more than twice as large as needed, a JPEG is decoded at
    a half, a quarter or an eighth of its size.

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
            if file.format != "TIFF" and file.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                height, width = width, height  # a TIFF's are exchanged on opening
            height, width = size.of(height, width)
            if size.portrait:  # the reference code's way is kept to the bit: no profile counts
                file.info.pop("icc_profile", None)
            else:
                file.draft(None, (REDUCING_GAP * min(height, width),) * 2)
            ImageOps.exif_transpose(file, in_place=True)
            convert, fault = to_srgb(file)
            if fault:
                name = "An image" if isinstance(source, Image.Image) else in_a_line(str(source))
                print(f"{name}: its colour profile cannot be used and is ignored ({fault}).", file=sys.stderr)
            image, factor = file, min(file.size) // (REDUCING_GAP * min(height, width))
            if convert is not as_it_is and factor > 1 and file.mode in ("RGB", "CMYK"):
                image = file.reduce(factor)  # as `resize` begins: fewer pixels to convert
            image = _to_rgb(image, convert)
            if image.size != (width, height):
                gap = None if size.portrait else REDUCING_GAP
                image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=gap)
            return np.asarray(image)
    except ImageError:
        raise
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
        with open(source, "rb") as file:
            start = file.read(12)
        if Path(source).suffix.lower() in RAW:
            return NO_PICTURE
        if start[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf") and "HEIF" not in FORMATS:
            return "is a HEIC photograph: pip install pillow-heif to read such files, or export it as JPEG"
        if start[:4] in (b"II*\0", b"MM\0*"):
            return f"is a TIFF of a kind that Pillow cannot read: {AS_8_BITS}"
        return (
            "is a pointer of Git LFS: git lfs pull" if start == b"version http" else "is no image that Pillow can read"
        )
    if isinstance(error, Image.DecompressionBombError):
        return f"is larger than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _to_rgb(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if image.mode[0] in "IF":  # 16 bits, of either byte order, or 32
        grey = np.asarray(image)
        full = 65535 if ";16" in image.mode or (image.format, image.mode) == ("PPM", "I") else _white_of(grey)
        if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
            grey = full - grey  # white is 0: Pillow knows this of 8 bits only
        image = Image.fromarray(np.clip(np.round(grey * np.float32(255 / full)), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(convert(image.convert("RGB")), mask=image.getchannel("A"))
        return white
    return convert(image)


def _white_of(grey: np.ndarray) -> int:
    low, high = grey.min(), grey.max()
    for white in WHITE:
        rounding = white / 510  # half a step of 8 bits
        if low >= -rounding and (white / 2 <= high <= white + rounding or low == high == 0):
            return white
    raise ValueError(
        f"grey of 32 bits from {low:g} to {high:g}, where white may be {', '.join(map(str, WHITE))} or else; scale it "
        f"to 0–255 and save it with 8 bits"
    )


def as_it_is(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def to_srgb(image: Image.Image) -> tuple[Callable[[Image.Image], Image.Image], str]:
    """What makes this image's colours sRGB, by its profile; `as_it_is` where they are, or, with why, cannot be made."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode == "LAB":  # which Pillow itself converts
        if image.info.get("nclx_profile", {}).get("transfer_characteristics") in HDR:
            raise ValueError("an HDR picture (PQ or HLG), brighter than 0–255 can say; export it as JPEG")
        return as_it_is, ""
    try:
        mode, convert = _conversion(profile)
    except Exception as error:  # as with files: what is damaged makes it raise anything
        return as_it_is, str(error) or type(error).__name__
    kind = "CMYK" if image.mode == "CMYK" else ImageMode.getmode(image.mode).basemode
    if kind == mode or (mode == "RGB" and kind != "CMYK"):  # grey pixels may have a profile for colours
        return convert, ""
    return as_it_is, f"it is for {mode}, the pixels are {image.mode}"


@functools.lru_cache(maxsize=32)
def _conversion(profile: bytes) -> tuple[str, Callable[[Image.Image], Image.Image]]:
    """Pillow's mode that a profile is for, and what makes its colours sRGB; nothing for a profile that is sRGB."""
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[given.profile.xcolor_space.strip()]
    transform = ImageCms.buildTransform(
        given,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    probe = PROBE.convert(mode)
    change = np.asarray(transform.apply(probe), int) - np.asarray(probe.convert("RGB"))
    if abs(change).max() <= SAME_COLOURS:
        return mode, as_it_is
    return mode, lambda image: transform.apply(image if image.mode == mode else image.convert(mode))


def _refuse_strip(width: int, height: int) -> None:
    if not min(width, height):
        raise ValueError(f"{width} x {height} pixels")
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
