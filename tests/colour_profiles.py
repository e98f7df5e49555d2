"""Small ICC profiles (version 2), for colour, grey and ink; and pictures whose values are meant by them."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

D50, D65 = np.array([0.9642, 1, 0.8249]), (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def xyz(values):
    return b"XYZ \0\0\0\0" + fixed(*values)


def gamma(exponent):
    return b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(exponent * 256), 0)


def srgb_curve():
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", len(x)) + np.round(y * 65535).astype(">u2").tobytes()


def profile(space, kind=b"mntr", connection=b"XYZ ", **tags):
    tags = {
        "desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79),
        "cprt": b"text\0\0\0\0none",
        "wtpt": xyz(D50),
    } | tags
    table, body = b"", b""
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", 132 + len(table) + len(body), b"", 0x02400000, kind, space, connection, b"acsp"
    )
    head = head.ljust(68, b"\0") + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def of_primaries(red, green, blue, curve, white=D65):
    def whole(x, y):
        return np.array([x / y, 1, (1 - x - y) / y])

    matrix = np.stack([whole(*colour) for colour in (red, green, blue)], axis=1)
    matrix *= np.linalg.solve(matrix, whole(*white))
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ whole(*white))) @ BRADFORD
    columns = zip("rgb", (adapt @ matrix).T, strict=True)
    tags = {f"{name}XYZ": xyz(column) for name, column in columns}
    return profile(b"RGB ", **tags, **{f"{name}TRC": curve for name in "rgb"})


def of_inks():
    """CMYK in which cyan prints blue, magenta green and yellow red, each of them fully and black not at all."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 4)
    lightness = 100 * (1 - corners.max(axis=1) * 0.6) * (1 - corners[:, 3] * 0.9)
    lab = np.stack([lightness, *(60 * corners[:, :3] @ np.array([[0, -1], [-1, 0], [1, 0]])).T], axis=1)
    table = np.clip(np.round((lab + np.array([0, 128, 128])) * [255 / 100, 1, 1]), 0, 255).astype(np.uint8).tobytes()
    line = bytes(range(256))
    identity = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    content = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + line * 4 + table + line * 3
    return profile(b"CMYK", b"prtr", b"Lab ", A2B0=content, A2B1=content)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OWN_SRGB = of_primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), srgb_curve())  # as another program writes it
P3 = of_primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), srgb_curve())
ADOBE = of_primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), gamma(2.2))
PROPHOTO = of_primaries((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), gamma(1.8), (0.3457, 0.3585))
LINEAR_GREY = profile(b"GRAY", kTRC=gamma(1))
INKS = of_inks()


def meant_by(icc, picture):
    """The same colours in the values of another profile, without its name."""
    into = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    values = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), into, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode=picture.mode
    )
    return Image.fromarray(np.asarray(values))
