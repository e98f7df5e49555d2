"""Faults of cameras, smartphones and renderers: functions of image, severity (0–1) and random generator."""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import color, restoration

from iqa_lib.data import distortions as d

VIEW = (384, 288)  # width and height in px of every image


def distort_like(device: str, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
    """One to three `FAULTS` of a camera or renderer, in their order: the image, their names, the highest severity."""
    faults = FAULTS[device]
    count = rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])
    kinds = [list(faults)[place] for place in sorted(rng.choice(len(faults), size=count, replace=False))]
    severities = []
    for kind in kinds:
        severities.append(rng.uniform(0, 1))
        image = faults[kind](image, severities[-1], rng)
    return image, "+".join(kinds), max(severities)


def _between(mild: float, severe: float, severity: float) -> float:
    """Geometric: equal steps of severity look about equally large."""
    return mild * (severe / mild) ** severity


def _exposure(image, severity, rng):
    change = d.brighten if rng.random() < 0.5 else d.darken
    return change(image, _between(0.05, 0.8, severity))


def _colour_cast(image, severity, rng):
    gains = 1 + _between(0.03, 0.4, severity) * rng.uniform(0.5, 1) * np.array([1, 0, -1]) * rng.choice([-1, 1])
    return np.clip(np.round(image * gains), 0, 255).astype(np.uint8)


def _resample(image, factor, down, up):
    """Reduce by ``factor`` and enlarge again, by two of Pillow's methods."""
    small = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return np.asarray(Image.fromarray(image).resize(small, down).resize(image.shape[1::-1], up))


NEAREST, BOX, BILINEAR, BICUBIC = (Image.Resampling[n] for n in ("NEAREST", "BOX", "BILINEAR", "BICUBIC"))

CAMERA_FAULTS = {
    "defocus": lambda image, s, rng: d.lens_blur(image, _between(0.6, 6, s)),
    "motion-blur": lambda image, s, rng: d.motion_blur(image, _between(2, 20, s), rng.uniform(0, 180)),
    "exposure": _exposure,
    "contrast": lambda image, s, rng: d.change_contrast(image, -_between(0.08, 0.6, s)),
    "colour-cast": _colour_cast,
    "noise": lambda image, s, rng: d.white_noise(image, _between(0.0004, 0.02, s), rng),
    "resampling": lambda image, s, rng: _resample(image, _between(1.3, 6, s), BILINEAR, BICUBIC),
    "jpeg2000": lambda image, s, rng: d.jpeg2000(image, _between(12, 250, s)),
    "jpeg": lambda image, s, rng: d.jpeg(image, _between(70, 5, s)),
}


def _sensor_noise(image, severity, rng):
    """Shot and read noise in linear light, as if exposed too little, in blotches as demosaicing leaves them."""
    linear = (image / 255.0) ** 2.2
    photons = _between(2000, 25, severity)  # of a white pixel
    noise = rng.standard_normal(image.shape) * np.sqrt(linear / photons + (3 / photons) ** 2)
    noisy = linear + ndimage.gaussian_filter(noise, (0.6, 0.6, 0)) * 1.5
    return d.to_uint8(np.clip(noisy, 0, 1) ** (1 / 2.2))


def _smear(image, severity, rng):
    """Denoise by total variation (Chambolle 2004), colour most: fine texture turns to paint."""
    lab = color.rgb2lab(image)
    weight = _between(0.5, 12, severity)
    lab[..., 0] = restoration.denoise_tv_chambolle(lab[..., 0], weight, max_num_iter=40)
    lab[..., 1:] = ndimage.gaussian_filter(lab[..., 1:], (weight / 3, weight / 3, 0), mode="nearest")
    return d.to_uint8(d.lab_to_unit(lab))


def _tone_map(image, severity, rng):
    """Flatten the coarse light and lift detail and colour, as "HDR" does; halos stand along dark outlines."""
    lab = color.rgb2lab(image)
    coarse = ndimage.gaussian_filter(lab[..., 0], 12, mode="nearest")
    detail = lab[..., 0] - coarse
    flat = coarse + _between(0.05, 0.7, severity) * (60 - coarse)
    lab[..., 0] = np.clip(flat + (1 + _between(0.1, 1, severity)) * detail, 0, 100)
    lab[..., 1:] *= 1 + _between(0.05, 0.8, severity)
    return d.to_uint8(d.lab_to_unit(lab))


def _halo_sharpen(image, severity, rng):
    """Unsharp masking at 1.2 px, the narrow bright and dark outlines of a smartphone."""
    unit = image / 255.0
    blurred = ndimage.gaussian_filter(unit, (1.2, 1.2, 0), mode="nearest")
    return d.to_uint8(unit + _between(0.15, 3, severity) * (unit - blurred))


def _compress(image, severity, rng):
    return d.jpeg(image, _between(85, 10, severity))


def _shake(image, severity, rng):
    return d.motion_blur(image, _between(1.2, 7, severity), rng.uniform(0, 180))


def _digital_zoom(image, severity, rng):
    return _resample(image, _between(1.2, 4, severity), BILINEAR, BICUBIC)


def _forward(image, severity, rng):
    """As a messenger passes it on: reduced, compressed hard, enlarged with its blocks."""
    factor = _between(1.05, 2.5, severity)
    small = Image.fromarray(image).resize([round(side / factor) for side in VIEW], BILINEAR)
    sent = d.jpeg(np.asarray(small), _between(80, 8, severity))
    return np.asarray(Image.fromarray(sent).resize(VIEW, BILINEAR))


# What a smartphone does to a picture, in order, by the kind of shot.
PHONE_SHOTS = {
    "daylight": (_tone_map, _halo_sharpen, _compress),
    "low-light": (_shake, _sensor_noise, _smear, _halo_sharpen, _compress),
    "digital-zoom": (_digital_zoom, _smear, _halo_sharpen, _compress),
    "messenger": (_halo_sharpen, _forward),
}


def take_with_a_phone(image: np.ndarray, shot: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """All steps of one of `PHONE_SHOTS`, each about as strong as ``severity`` (0-1) says."""
    for step in PHONE_SHOTS[shot]:
        image = step(image, np.clip(severity + rng.uniform(-0.15, 0.15), 0, 1), rng)
    return image


def _colour_drift(image, severity, rng):
    """Turn all hues and the grey point, as a wrong colour space or white point does."""
    lab = color.rgb2lab(image)
    angle = np.radians(_between(6, 80, severity)) * rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lab[..., 1:] = lab[..., 1:] @ turn + _between(1, 12, severity) * turn[0]
    return d.to_uint8(d.lab_to_unit(lab))


def _melt(image, severity, rng):
    """Warp smoothly by a few px, as image generators deform what should be straight."""
    shifts = ndimage.gaussian_filter(rng.standard_normal((2, *image.shape[:2])), (0, 8, 8))
    places = np.indices(image.shape[:2]) + _between(0.4, 6, severity) * shifts / shifts.std()
    channels = [ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=-1)


def _few_samples(image, severity, rng):
    """The grain of a path tracer stopped too soon, and its fireflies: single pixels far too bright."""
    grainy = d.multiplicative_noise(image, _between(0.003, 0.15, severity), rng)
    fireflies = rng.random(image.shape[:2]) < _between(0.0002, 0.01, severity)
    grainy[fireflies] = 255
    return grainy


# What goes wrong in rendering, generating and delivering, in that order.
RENDER_FAULTS = {
    "melting": _melt,
    "few-samples": _few_samples,
    "aliasing": lambda image, s, rng: _resample(image, _between(1.2, 4, s), NEAREST, BILINEAR),
    "blocky-upscaling": lambda image, s, rng: _resample(image, _between(1.4, 7, s), BOX, NEAREST),
    "oversharpening": lambda image, s, rng: d.sharpen(image, _between(0.5, 10, s)),
    "colour-drift": _colour_drift,
    "oversaturation": lambda image, s, rng: d.saturate_lab(image, _between(1.3, 5, s)),
    "banding": lambda image, s, rng: d.quantize(image, _between(24, 4, s)),
    "streaming": lambda image, s, rng: d.recompress(image, "WEBP", quality=round(_between(60, 1, s))),
}

FAULTS = {"camera": CAMERA_FAULTS, "renderer": RENDER_FAULTS}
