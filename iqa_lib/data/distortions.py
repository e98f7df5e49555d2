"""The 25 distortions of KADID-10k at their five published levels, on primitives of continuous strength.

The parameters and their meaning follow the generator published with KADID-10k (Lin, Hosu and Saupe, QoMEX
2019); where a primitive departs from it, its docstring says how. One departure is common to all: the
generator stretches each result to the full range, here it is only clipped. Images are uint8 RGB arrays.
"""

import difflib
import inspect
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage, signal
from scipy.interpolate import CubicSpline
from skimage import color
from skimage.restoration import denoise_nl_means

SMALLEST_SIDE = 32  # the side of a color block, the largest thing placed inside an image
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# inverse of the BT.601 studio-range transform, which MATLAB's rgb2ycbcr uses: columns are Y, Cb, Cr
YCBCR_TO_RGB = np.array([[1.164, 0.0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0.0]], np.float32)


# --- blur -------------------------------------------------------------------------------------------------


def gaussian_blur(image, sigma):
    """Blur with a Gaussian of `sigma` px, sampled at the pixels: below about 0.25 px nothing changes."""
    return to_uint8(ndimage.gaussian_filter(_to_unit(image), (sigma, sigma, 0), mode="nearest"))


def lens_blur(image, radius):
    """Blur with an out-of-focus disk of `radius` px; a pixel weighs by how much of it the disk covers."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _convolve(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


def motion_blur(image, length, angle=45.0):
    """Blur along a line of `length` px (1: no blur) at `angle` degrees, as MATLAB's fspecial('motion')."""
    half = max(length - 1, 0) / 2
    reach = int(np.ceil(half)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    dx, dy = np.cos(np.radians(angle)), -np.sin(np.radians(angle))
    along = np.clip(x * dx + y * dy, -half, half)
    return _convolve(image, np.clip(1 - np.hypot(x - along * dx, y - along * dy), 0, 1))


# --- colour -----------------------------------------------------------------------------------------------


def color_diffusion(image, amount):
    """Blur the Lab chroma with sigma 1.5 `amount` + 2 px and multiply it by `amount`."""
    lab = color.rgb2lab(_to_unit(image))
    sigma = 1.5 * amount + 2
    # the cost grows with the reach, and in so wide a blur what is beyond 2.5 sigma is not visible
    lab[..., 1:] = ndimage.gaussian_filter(lab[..., 1:], (sigma, sigma, 0), mode="nearest", truncate=2.5)
    lab[..., 1:] *= amount
    return to_uint8(lab_to_unit(lab))


def color_shift(image, amount, rng):
    """Move the green channel by `amount` px in a random direction, blended in where the image has edges."""
    unit = _to_unit(image)
    edges = ndimage.gaussian_filter(np.hypot(*np.gradient(unit @ LUMA)), 4, mode="nearest")
    low, high = np.percentile(edges, (1, 99))
    blend = np.clip((edges - low) / max(high - low, 1e-6), 0, 1)
    direction = rng.uniform(0, 2 * np.pi)
    offset = amount * np.sin(direction), amount * np.cos(direction)
    moved = ndimage.shift(unit[..., 1], offset, order=1, mode="nearest")
    unit[..., 1] += blend * (moved - unit[..., 1])
    return to_uint8(unit)


def color_quantization(image, colors):
    """Dither to the `colors` colours (rounded) of least variance, by k-means; the generator calls rgb2ind."""
    step = max(min(image.shape[:2]) // 56, 1)  # a few thousand pixels give as good a palette, much sooner
    sample = Image.fromarray(np.ascontiguousarray(image[::step, ::step]))
    palette = sample.quantize(round(colors), Image.Quantize.MEDIANCUT, kmeans=1)
    return np.array(Image.fromarray(image).quantize(palette=palette).convert("RGB"))


def saturate_hsv(image, factor):
    """Multiply the HSV saturation by `factor`: 1 changes nothing, 0 is grey, below 0 hues are opposite."""
    unit = _to_unit(image)
    # with hue and value fixed, every channel's distance to the value is proportional to the saturation
    value = unit.max(axis=-1, keepdims=True)
    return to_uint8(value - factor * (value - unit))


def saturate_lab(image, gain):
    """Multiply the Lab chroma by `gain`: 1 changes nothing."""
    lab = color.rgb2lab(_to_unit(image))
    lab[..., 1:] *= gain
    return to_uint8(lab_to_unit(lab))


# --- compression ------------------------------------------------------------------------------------------


def jpeg2000(image, ratio):
    """Compress `ratio` : 1 with the lossy (9-7) wavelet of JPEG2000."""
    return recompress(image, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def jpeg(image, quality):
    """Compress with JPEG of `quality` 1..100 (rounded: the coder knows whole numbers only)."""
    return recompress(image, "JPEG", quality=round(quality))


# --- noise ------------------------------------------------------------------------------------------------


def white_noise(image, variance, rng):
    """Add Gaussian noise of `variance` (pixels in 0..1) to each of R, G and B."""
    return to_uint8(_to_unit(image) + _gaussian_noise(image.shape, variance, rng))


def color_noise(image, variance, rng):
    """Add Gaussian noise of `variance` (pixels in 0..1) to each of Y, Cb and Cr."""
    # the transform is linear, so the noise alone can be taken to RGB
    return to_uint8(_to_unit(image) + _gaussian_noise(image.shape, variance, rng) @ YCBCR_TO_RGB.T)


def impulse_noise(image, density, rng):
    """Set a share `density` of all channel values to 0 or 255, half of them each (salt and pepper)."""
    draw = rng.random(image.shape, np.float32)
    return np.where(draw < density / 2, 0, np.where(draw > 1 - density / 2, 255, image)).astype(np.uint8)


def multiplicative_noise(image, variance, rng):
    """Multiply each value by 1 + uniform noise of `variance`, the speckle of MATLAB's imnoise."""
    noise = np.sqrt(12 * variance) * (rng.random(image.shape, np.float32) - 0.5)
    return to_uint8(_to_unit(image) * (1 + noise))


def denoise(image, variance, rng):
    """Add Gaussian noise of `variance`, then remove it by non-local means (Buades et al. 2005) over 5 x 5 px.

    The generator removes it with DnCNN, channel by channel; both smooth texture away and leave stains.
    """
    noisy = np.clip(_to_unit(image) + _gaussian_noise(image.shape, variance, rng), 0, 1)
    sigma = np.sqrt(variance)
    clean = denoise_nl_means(
        noisy, patch_size=5, patch_distance=2, h=0.8 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
    )
    return to_uint8(clean)


# --- brightness and contrast ------------------------------------------------------------------------------


def brighten(image, amount):
    """Lift mid-grey by `amount` / 2 on a parabola, two thirds of it on RGB, one third on Lab lightness."""
    unit = _to_unit(image)
    lab = color.rgb2lab(unit)
    lab[..., 0] = 100 * _bend(lab[..., 0] / 100, amount)
    return to_uint8((2 * _bend(unit, amount) + lab_to_unit(lab)) / 3)


def darken(image, amount):
    """Lower mid-grey by `amount` / 2 on a parabola, on RGB."""
    return _apply_curve(image, lambda unit: _bend(unit, -amount))


def mean_shift(image, offset):
    """Add `offset` (pixels in 0..1, signed) to every value: 0 changes nothing."""
    return _apply_curve(image, lambda unit: unit + offset)


def change_contrast(image, amount):
    """Move the quarter tones off mid-grey by `amount` / 4 (signed) on a cubic spline: 0 changes nothing.

    The generator moves the inputs 0.3 and 0.7 to these outputs, so that its 0 raises contrast a little.
    """
    quarters = [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1]
    return _apply_curve(image, CubicSpline([0, 0.25, 0.5, 0.75, 1], quarters))


# --- spatial ----------------------------------------------------------------------------------------------


def jitter(image, amount, rng):
    """Take each pixel from a random place nearby, normally distributed with deviation sqrt(5) `amount` px."""
    # the generator scatters five times by `amount`; once with the same total deviation looks alike
    shifts = np.sqrt(5) * amount * rng.standard_normal((2, *image.shape[:2]), np.float32)
    places = np.indices(image.shape[:2], np.float32) + shifts
    channels = [ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=-1)


def eccentric_patches(image, patches, rng):
    """Copy `patches` (rounded) squares of 16 px to places up to 8 px off (the non-eccentricity patch)."""
    size, reach = 16, 8
    result = image.copy()
    for _ in range(round(patches)):
        y, x = (rng.integers(reach, side - size - reach, endpoint=True) for side in image.shape[:2])
        to_y, to_x = rng.integers((y - reach, x - reach), (y + reach, x + reach), endpoint=True)
        result[to_y : to_y + size, to_x : to_x + size] = image[y : y + size, x : x + size]
    return result


def pixelate(image, strength):
    """Shrink to 0.95 - `strength`^0.6 of the size and back, taking the nearest pixel both ways."""
    height, width = image.shape[:2]
    scale = 0.95 - strength**0.6
    small_size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = Image.fromarray(image).resize(small_size, Image.Resampling.NEAREST)
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def quantize(image, levels):
    """Round every value to one of `levels` even steps (the generator finds uneven ones by Otsu's method)."""
    return _apply_curve(image, lambda unit: np.rint(unit * (levels - 1)) / (levels - 1))


def color_blocks(image, blocks, rng):
    """Paint `blocks` (rounded) squares of 32 px in random colours at random places."""
    result = image.copy()
    for _ in range(round(blocks)):
        y, x = (rng.integers(0, side - SMALLEST_SIDE, endpoint=True) for side in image.shape[:2])
        result[y : y + SMALLEST_SIDE, x : x + SMALLEST_SIDE] = rng.integers(0, 256, 3)
    return result


def sharpen(image, amount):
    """Unsharp-mask the Lab lightness: add `amount` times its difference to a Gaussian blur of 3 px."""
    lab = color.rgb2lab(_to_unit(image))
    detail = lab[..., 0] - ndimage.gaussian_filter(lab[..., 0], 3, mode="nearest")
    lab[..., 0] = np.clip(lab[..., 0] + amount * detail, 0, 100)
    return to_uint8(lab_to_unit(lab))


# --- what the primitives share ----------------------------------------------------------------------------


def _to_unit(image):
    return image.astype(np.float32) / 255


def to_uint8(unit):
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def lab_to_unit(lab):
    with warnings.catch_warnings():  # colours outside the gamut are part of the distortion
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB")
        return color.lab2rgb(lab)


def _convolve(image, kernel):
    kernel = (kernel / kernel.sum()).astype(np.float32)[..., None]
    reach = kernel.shape[0] // 2
    padded = np.pad(_to_unit(image), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    return to_uint8(signal.fftconvolve(padded, kernel, mode="valid", axes=(0, 1)))


def recompress(image, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return np.array(Image.open(buffer).convert("RGB"))


def _gaussian_noise(shape, variance, rng):
    return np.float32(np.sqrt(variance)) * rng.standard_normal(shape, np.float32)


def _bend(unit, amount):
    """The parabola through (0, 0), (1/2, 1/2 + amount/2) and (1, 1), clipped to 0..1."""
    return np.clip(unit + 2 * amount * unit * (1 - unit), 0, 1)


def _apply_curve(image, curve):
    return to_uint8(curve(np.arange(256) / 255))[image]


# --- the table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distortion:
    """A distortion of KADID-10k: a primitive, and the strength it is given at each of the five levels."""

    id: int
    name: str
    primitive: Callable[..., np.ndarray]
    levels: tuple[float, float, float, float, float]
    parameter: str
    signed: bool = False  # level 3 is the image itself, levels 1 and 5 are the two extremes

    @property
    def random(self):
        """Whether the primitive takes a random generator as its last argument."""
        return "rng" in inspect.signature(self.primitive).parameters


_TABLE = (
    (1, "gaussian-blur", gaussian_blur, (0.1, 0.5, 1, 2, 5), "sigma, px"),
    (2, "lens-blur", lens_blur, (1, 2, 4, 6, 8), "disk radius, px"),
    (3, "motion-blur", motion_blur, (1, 2, 4, 6, 10), "length, px"),
    (4, "color-diffusion", color_diffusion, (1, 3, 6, 8, 12), "scale and gain of the chroma blur"),
    (5, "color-shift", color_shift, (1, 3, 6, 8, 12), "shift of green, px"),
    (6, "color-quantization", color_quantization, (64, 48, 32, 16, 8), "palette size"),
    (7, "saturation-hsv", saturate_hsv, (0.4, 0.2, 0.1, 0, -0.4), "saturation factor"),
    (8, "saturation-lab", saturate_lab, (1, 2, 3, 6, 9), "chroma gain"),
    (9, "jpeg2000", jpeg2000, (16, 32, 45, 120, 400), "compression ratio"),
    (10, "jpeg", jpeg, (43, 36, 24, 7, 4), "quality"),
    (11, "white-noise", white_noise, (0.001, 0.002, 0.003, 0.005, 0.01), "variance"),
    (12, "white-noise-in-color-component", color_noise, (0.0001, 0.0005, 0.001, 0.002, 0.003), "variance"),
    (13, "impulse-noise", impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03), "density"),
    (14, "multiplicative-noise", multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05), "variance"),
    (15, "denoise", denoise, (0.01, 0.03, 0.05, 0.1, 0.15), "variance of the noise removed"),
    (16, "brighten", brighten, (0.1, 0.2, 0.4, 0.7, 1.1), "curve amount"),
    (17, "darken", darken, (0.05, 0.1, 0.2, 0.4, 0.8), "curve amount"),
    (18, "mean-shift", mean_shift, (0.15, 0.08, 0, -0.08, -0.15), "offset", True),
    (19, "jitter", jitter, (0.05, 0.1, 0.2, 0.5, 1), "scatter, px"),
    (20, "non-eccentricity-patch", eccentric_patches, (20, 40, 60, 80, 100), "patches"),
    (21, "pixelate", pixelate, (0.01, 0.05, 0.1, 0.2, 0.5), "strength"),
    (22, "quantization", quantize, (20, 16, 13, 10, 7), "levels"),
    (23, "color-block", color_blocks, (2, 4, 6, 8, 10), "blocks"),
    (24, "high-sharpen", sharpen, (1, 2, 3, 6, 12), "amount"),
    (25, "contrast-change", change_contrast, (0.3, 0.15, 0, -0.4, -0.6), "amount", True),
)

DISTORTIONS = {name: Distortion(id, name, *rest) for id, name, *rest in _TABLE}


def distort(image, name, level, seed=0):
    """Apply KADID-10k's distortion `name` at `level` 1..5; the same arguments give the same bytes."""
    shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"expected a uint8 RGB array of height x width x 3, at least {SMALLEST_SIDE} x {SMALLEST_SIDE}; "
            f"got {dtype} of shape {shape}"
        )
    if name not in DISTORTIONS:
        nearest = difflib.get_close_matches(str(name), DISTORTIONS) or list(DISTORTIONS)
        raise ValueError(f"unknown distortion {name!r}; did you mean {', '.join(nearest)}?")
    if level not in range(1, 6):
        raise ValueError(f"level must be 1, 2, 3, 4 or 5, not {level!r}")
    distortion = DISTORTIONS[name]
    # the draws do not depend on the level: levels differ in strength alone
    chance = [np.random.default_rng([seed, distortion.id])] if distortion.random else []
    return distortion.primitive(image, distortion.levels[int(level) - 1], *chance)
