"""Scenes composed of parts of photographs, or of shaded textures, as leaves that cover one another."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import color

from iqa_lib.data import distortions as d

SCENE = (960, 720)  # width and height in px of a composed scene


def compose_scene(
    filling: Callable[[tuple[int, int], np.random.Generator], np.ndarray], rng: np.random.Generator, leaves: int = 300
) -> np.ndarray:
    """A dead-leaves scene: overlapping shapes, each filled by ``filling((width, height), rng)``, 960 x 720.

    Sizes follow the power law that gives such scenes the scale invariance of natural images (Lee, Mumford and
    Huang, IJCV 2001).
    """
    scene = Image.fromarray(filling(SCENE, rng))
    for radius in sorted(_leaf_radii(rng, leaves), reverse=True):
        leaf = Image.new("L", (4 * radius, 4 * radius))
        corners = rng.integers(3, 9)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        outline = [(2 * radius * (1 + np.cos(a)), 2 * radius * (1 + np.sin(a))) for a in angles]
        if rng.random() < 0.5:
            ImageDraw.Draw(leaf).ellipse((0, 0, 4 * radius - 1, 4 * radius - 1), fill=255)
        else:
            ImageDraw.Draw(leaf).polygon(outline, fill=255)
        mask = leaf.resize((2 * radius, 2 * radius), Image.Resampling.LANCZOS)  # smooth edges
        place = (int(rng.integers(-radius, SCENE[0])), int(rng.integers(-radius, SCENE[1])))
        scene.paste(Image.fromarray(filling(mask.size, rng)), place, mask)
    return np.asarray(scene)


def _leaf_radii(rng: np.random.Generator, count: int, smallest: int = 20, largest: int = 200) -> list[int]:
    """Radii with density r^-3 between the two, by inverting its distribution."""
    u = rng.uniform(0, 1, count)
    return np.round((smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5).astype(int).tolist()


def part_of_one(photographs: list[np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of a random photograph at its own sharpness, mirrored where it is too small, or turned."""
    pixels = photographs[rng.integers(len(photographs))]
    pixels = np.rot90(pixels, int(rng.integers(4)))
    short = [max(0, want - have) for want, have in zip(size[::-1], pixels.shape[:2], strict=True)]
    if any(short):
        pixels = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric")
    y = rng.integers(0, pixels.shape[0] - size[1] + 1)
    x = rng.integers(0, pixels.shape[1] - size[0] + 1)
    return np.ascontiguousarray(pixels[y : y + size[1], x : x + size[0]])


def shaded_texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A generated texture between two colours, lit from a random side."""
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    colours = color.hsv2rgb(rng.uniform((0, 0, 0.1), (1, 0.7, 1), (2, 3)))
    texture = kind(size, rng)[..., None] * (colours[1] - colours[0]) + colours[0]
    light = 1 + rng.uniform(0, 0.35) * _ramp(size, rng.uniform(0, 2 * np.pi))
    return d.to_uint8(texture * light[..., None])


def _ramp(size: tuple[int, int], angle: float) -> np.ndarray:
    """A plane through 0 at the middle, -1 to 1 along its longer direction, height x width."""
    x, y = (np.linspace(-1, 1, side) for side in size)
    plane = np.cos(angle) * x + np.sin(angle) * y[:, None]
    return plane / np.abs(plane).max()


def _cloud(size, rng):
    """Noise whose amplitude falls as a power of frequency, stone to mist."""
    fy, fx = np.fft.fftfreq(size[1])[:, None], np.fft.rfftfreq(size[0])
    frequency = np.maximum(np.hypot(fx, fy), 1 / max(size))
    spectrum = np.fft.rfft2(rng.standard_normal(size[::-1])) * frequency ** -rng.uniform(0.6, 2)
    noise = np.fft.irfft2(spectrum, s=size[::-1])
    return np.clip(0.5 + 0.2 * (noise - noise.mean()) / noise.std(), 0, 1)


def _gradient(size, rng):
    return (1 + _ramp(size, rng.uniform(0, 2 * np.pi))) / 2


def _stripes(size, rng):
    """Parallel waves, soft to hard-edged, a period of 6 to 40 px."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    return np.clip(0.5 + rng.uniform(0.5, 3) * wave, 0, 1)


def _tiles(size, rng):
    """A wall of square tiles of differing brightness between joints."""
    side = int(rng.integers(12, 48))
    y, x = np.indices(size[::-1])
    brightness = rng.uniform(0.3, 1, (size[1] // side + 1, size[0] // side + 1))
    joint = np.minimum(x % side, y % side) < max(side // 12, 1)
    return np.where(joint, 0, brightness[y // side, x // side])


def _cells(size, rng):
    """Nearest-point (Voronoi) cells of differing brightness, like cracked ground or scales."""
    count = max(4, size[0] * size[1] // int(rng.integers(200, 2000)))
    seeds = np.ones(size[::-1], bool)
    at = rng.integers(0, size[1], count), rng.integers(0, size[0], count)
    seeds[at] = False
    distance, (ny, nx) = ndimage.distance_transform_edt(seeds, return_indices=True)
    return rng.uniform(0.2, 1, size[::-1])[ny, nx] * (1 - 0.6 * distance / max(distance.max(), 1))


def _writing(size, rng):
    """Lines of random letters."""
    page = Image.new("L", size)
    height = int(rng.integers(9, 26))
    font, letters = ImageFont.load_default(height), np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for top in range(0, size[1], round(1.3 * height)):
        ImageDraw.Draw(page).text((0, top), "".join(rng.choice(letters, size[0] // 3)), 255, font)
    return np.asarray(page) / 255


TEXTURES = (_cloud, _cloud, _gradient, _stripes, _tiles, _cells, _writing)
