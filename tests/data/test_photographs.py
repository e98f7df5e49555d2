"""Image files as telephones, cameras and programs write them."""

import struct
import zlib

import numpy as np
import pytest
from colour_profiles import ADOBE, INKS, LINEAR_GREY, OWN_SRGB, P3, PROPHOTO, SRGB, meant_by
from PIL import ExifTags, Image, ImageCms
from skimage import data as photographs

from iqa_lib.data import decode as decoding
from iqa_lib.data.check import check
from iqa_lib.data.decode import NO_PICTURE, WorkingSize, decode, read_image, read_size
from iqa_lib.errors import ImageError
from iqa_lib.profile import load_profile

HEIF = "HEIF" in decoding.FORMATS
needs_heif = pytest.mark.skipif(not HEIF, reason="pillow-heif is not installed")
heic = pytest.param("x.heic", marks=needs_heif)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(photographs.coffee()).resize((96, 64), Image.Resampling.LANCZOS)


def difference(path, expected, resolution=384):
    found = decode(path, resolution, 32)
    assert found.shape == np.asarray(expected).shape and found.dtype == np.uint8
    return np.abs(found.astype(int) - np.asarray(expected)).mean()


# --- colours ---


@pytest.mark.parametrize(
    ("name", "tolerance"), [("x.png", 0), ("x.tif", 0), ("x.jpg", 6), ("x.webp", 6), ("x.avif", 6)]
)
@pytest.mark.parametrize("icc", [SRGB, OWN_SRGB], ids=["sRGB", "another's sRGB"])
def test_an_srgb_profile_changes_no_pixel(tmp_path, photo, name, tolerance, icc):
    photo.save(tmp_path / name, quality=95, icc_profile=icc)
    photo.save(tmp_path / f"plain-{name}", quality=95)
    np.testing.assert_array_equal(decode(tmp_path / name, 384, 32), decode(tmp_path / f"plain-{name}", 384, 32))
    assert difference(tmp_path / name, photo) <= tolerance


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "x.webp", "x.avif", heic])
@pytest.mark.parametrize("icc", [P3, ADOBE, PROPHOTO], ids=["P3", "Adobe RGB", "ProPhoto"])
def test_other_colours_become_srgb(tmp_path, photo, name, icc):
    other = meant_by(icc, photo)
    assert np.abs(np.asarray(other, int) - np.asarray(photo)).mean() > 5  # what ignoring the profile would do
    other.save(tmp_path / name, quality=100, icc_profile=icc)
    assert difference(tmp_path / name, photo) < 4  # of which the coders' is the most
    np.testing.assert_array_equal(
        read_image(tmp_path / name, WorkingSize(384, 32)), read_image(Image.open(tmp_path / name), WorkingSize(384, 32))
    )


@pytest.mark.parametrize("convert", [lambda p: p.convert("RGBA"), lambda p: p.quantize(256)], ids=["RGBA", "palette"])
def test_colours_are_converted_behind_transparency_and_in_palettes(tmp_path, photo, convert):
    other = convert(meant_by(P3, photo))
    if other.mode == "RGBA":
        other.paste((0, 0, 0, 0), (0, 0, 48, 64))
    other.save(tmp_path / "x.png", icc_profile=P3)
    expected = np.asarray(photo).copy()
    if other.mode == "RGBA":
        expected[:, :48] = 255
    assert difference(tmp_path / "x.png", expected) < 2


def test_a_large_picture_with_a_profile_is_its_twin_too(tmp_path, photo):
    large = photo.resize((960, 640), Image.Resampling.BICUBIC)
    for name, quality in (("x.png", {}), ("x.jpg", {"quality": 95})):
        meant_by(ADOBE, large).save(tmp_path / name, icc_profile=ADOBE, **quality)
        large.save(tmp_path / f"plain-{name}", **quality)
        assert difference(tmp_path / name, decode(tmp_path / f"plain-{name}", 64, 32), resolution=64) < 1


def test_grey_has_profiles_of_its_own(tmp_path, photo):
    ramp = Image.fromarray(np.arange(0, 256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1))
    twin = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    brighter = np.round(255 * np.where(np.asarray(ramp) < 1, 0, 1.055 * (np.asarray(ramp) / 255) ** (1 / 2.4) - 0.055))
    for name, image in (("8.png", ramp), ("16.png", twin), ("8.tif", ramp), ("alpha.png", ramp.convert("LA"))):
        image.save(tmp_path / name, icc_profile=LINEAR_GREY)
        assert difference(tmp_path / name, np.stack([brighter] * 3, -1)) < 1
        image.save(tmp_path / name, icc_profile=SRGB)  # a colour profile, as programs leave it
        assert difference(tmp_path / name, ramp.convert("RGB")) == 0


def test_inks_are_those_of_the_profile(tmp_path):
    cyan = Image.new("CMYK", (40, 40), (255, 0, 0, 0))
    for name in ("x.tif", "x.jpg"):
        cyan.save(tmp_path / name)
        assert decode(tmp_path / name, 384, 32)[20, 20].tolist() == pytest.approx([0, 255, 255], abs=2)
        cyan.save(tmp_path / name, icc_profile=INKS)
        red, _, blue = decode(tmp_path / name, 384, 32)[20, 20].astype(int)
        assert blue > red + 80 and blue < 220


def test_lab_is_read(tmp_path, photo):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(photo, srgb, lab, outputMode="LAB").save(tmp_path / "x.tif")
    assert difference(tmp_path / "x.tif", photo) < 2


@pytest.mark.parametrize(
    ("icc", "mode"),
    [
        (P3[:300], "RGB"),
        (b"no profile", "RGB"),
        (P3.replace(b"RGB ", b"Luv "), "RGB"),
        (INKS, "RGB"),
        (P3, "CMYK"),
        (LINEAR_GREY, "RGB"),
        (LINEAR_GREY[:200], "L"),
    ],
    ids=["cut", "text", "of another space", "inks on RGB", "RGB on inks", "grey on RGB", "cut grey"],
)
def test_a_profile_that_is_of_no_use_is_ignored_aloud(tmp_path, photo, capsys, icc, mode):
    image = photo.convert(mode)
    image.save(tmp_path / "x.tif", icc_profile=icc)
    assert difference(tmp_path / "x.tif", image.convert("RGB")) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'x.tif'}: its colour profile cannot be used and is ignored (")
    assert said.count("\n") == 1


def test_no_damaged_profile_is_a_traceback(photo, capsys):
    rng, usable = np.random.default_rng(0), 0
    for icc, mode in ((P3, "RGB"), (LINEAR_GREY, "L"), (INKS, "CMYK")):
        for _ in range(200):
            content = bytearray(icc)
            for place in rng.integers(0, min(len(icc), 600), rng.integers(1, 8)):
                content[place] = rng.integers(256)
            image = photo.convert(mode)
            image.info["icc_profile"] = bytes(content)
            assert read_image(image, WorkingSize(64, 32)).shape == (64, 96, 3)
            usable += not capsys.readouterr().err
    assert 0 < usable < 600


def test_the_reference_protocol_ignores_profiles_as_its_code_does(tmp_path, photo):
    photo.save(tmp_path / "x.png", icc_profile=P3)
    photo.save(tmp_path / "plain.png")
    portrait = WorkingSize(64, 32, portrait=True)
    np.testing.assert_array_equal(*(read_image(tmp_path / f, portrait) for f in ("x.png", "plain.png")))


def test_data_check_counts_what_is_converted(home, photo):
    folder = home / "data" / "own"
    folder.mkdir()
    meant_by(P3, photo).save(folder / "a.png", icc_profile=P3)
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png", icc_profile=SRGB)
    (folder / "labels.csv").write_text("image,score\na.png,10\nb.png,90")
    notes = check("own/labels.csv", load_profile("smoke")).notes
    assert "1 images are of other colours than sRGB, by their profile; they are converted." in notes


# --- containers ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.tif", "x.webp", "x.avif", heic])
def test_no_format_is_turned_twice_or_squashed(tmp_path, photo, name, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo.save(tmp_path / "x.png", exif=exif)
    photo.save(tmp_path / name, exif=exif.tobytes(), quality=95)
    upright = decode(tmp_path / "x.png", 384, 32)
    assert difference(tmp_path / name, upright) < 6
    assert decode(tmp_path / name, 48, 32).shape == decode(tmp_path / "x.png", 48, 32).shape


def test_of_several_pictures_the_main_one_counts(tmp_path, photo):
    gain_map = Image.new("L", (24, 16), 128)
    photo.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[gain_map], quality=95)
    assert difference(tmp_path / "x.jpg", photo) < 6
    large = photo.resize((1920, 1280), Image.Resampling.BICUBIC)
    large.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[gain_map], quality=95)
    assert difference(tmp_path / "x.jpg", photo, resolution=64) < 3


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.avif", "x.tif"])
def test_of_a_sequence_the_first_counts(tmp_path, photo, name):
    photo.save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", photo.size)], quality=95)
    assert difference(tmp_path / name, photo) < 6


@needs_heif
def test_a_telephones_heic(tmp_path, photo):
    import pillow_heif

    small = photo.resize((48, 32))
    several = pillow_heif.from_pillow(small)
    several.add_from_pillow(photo.resize((960, 640), Image.Resampling.BICUBIC))
    several.save(tmp_path / "x.heic", quality=95, primary_index=1)
    assert difference(tmp_path / "x.heic", photo, resolution=64) < 3
    assert read_size(tmp_path / "x.heic") == (640, 960)
    large = Image.fromarray(photographs.coffee())
    large.save(tmp_path / "plain.heic", quality=95)
    large.save(tmp_path / "thumbnail.heic", quality=95, thumbnails=[256])  # compressed once more: not what is judged
    np.testing.assert_array_equal(*(decode(tmp_path / f"{f}.heic", 64, 32) for f in ("plain", "thumbnail")))
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.heic")
    assert difference(tmp_path / "clear.heic", Image.new("RGB", photo.size, "white")) == 0
    photo.save(tmp_path / "hdr.heic", transfer_characteristics=16, color_primaries=9)
    with pytest.raises(ImageError, match=r"hdr\.heic cannot be decoded \(an HDR picture .*export it as JPEG"):
        decode(tmp_path / "hdr.heic", 384, 32)
    whole = (tmp_path / "x.heic").read_bytes()
    (tmp_path / "cut.heic").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.heic cannot be decoded"):
        decode(tmp_path / "cut.heic", 384, 32)


def test_without_its_reader_a_heic_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "FORMATS", tuple(name for name in decoding.FORMATS if name != "HEIF"))
    (tmp_path / "IMG_1.HEIC").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(100))
    with pytest.raises(ImageError, match=r"IMG_1\.HEIC is a HEIC photograph: pip install pillow-heif .* as JPEG"):
        decode(tmp_path / "IMG_1.HEIC", 384, 32)


# --- raw files, and TIFF files that Pillow misunderstands ---


def lzw(content):
    """Of nothing but literals, in 9 bits each: the table is cleared before it needs 10."""
    codes = [code for at in range(0, len(content), 250) for code in (256, *content[at : at + 250])] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    return bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))


def tiff(path, pixels, tags=(), photometric=2, planes=1, compression=(1, bytes)):
    """A little-endian TIFF of one strip, or one a plane; ``compression``: its number and its function."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, channels = pixels.shape
    parts = np.moveaxis(pixels, -1, 0) if planes == 2 else [pixels]
    strips = [compression[1](part.astype(pixels.dtype.newbyteorder("<")).tobytes()) for part in parts]
    content, counts = b"".join(strips), [len(strip) for strip in strips]
    bits, offsets = [8 * pixels.itemsize] * channels, [8 + sum(counts[:n]) for n in range(len(strips))]
    entries = {256: [width], 257: [height], 258: bits, 259: [compression[0]], 262: [photometric], 273: offsets}
    entries |= {277: [channels], 278: [height], 279: counts, 284: [planes], **{tag: [value] for tag, value in tags}}
    start = 8 + len(content)
    extra_at, table, extra = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack("<I", extra_at + len(extra))
        extra += packed if len(values) > 1 else b""
        table += struct.pack("<HHI", tag, 4, len(values)) + place
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + content + struct.pack("<H", len(entries)) + table + bytes(4) + extra
    )


@pytest.mark.parametrize(
    ("name", "tags"),
    [("x.NEF", ()), ("x.arw", ()), ("x.dng", ()), ("renamed.tif", [(254, 1)]), ("renamed.jpg", [(50706, 0x0401)])],
)
def test_a_raw_files_preview_is_not_scored(tmp_path, photo, name, tags):
    tiff(tmp_path / "x.tif", np.asarray(photo))
    assert difference(tmp_path / "x.tif", photo) == 0
    tiff(tmp_path / name, np.asarray(photo), tags)
    assert Image.open(tmp_path / name).size == photo.size  # Pillow takes it
    with pytest.raises(ImageError, match=NO_PICTURE):
        decode(tmp_path / name, 384, 32)


def test_a_raw_file_that_pillow_cannot_open_is_named_and_a_jpeg_of_that_name_is_read(tmp_path, photo):
    (tmp_path / "x.CR3").write_bytes(struct.pack(">I", 24) + b"ftypcrx " + bytes(100))
    with pytest.raises(ImageError, match=NO_PICTURE):
        decode(tmp_path / "x.CR3", 384, 32)
    photo.save(tmp_path / "x.raf", format="JPEG", quality=95)
    assert difference(tmp_path / "x.raf", photo) < 6


def test_16_bits_of_each_layout_are_read_or_refused(tmp_path, photo):
    wide = np.asarray(photo).astype(np.uint16) * 257
    tiff(tmp_path / "x.tif", wide)
    assert difference(tmp_path / "x.tif", photo) == 0
    tiff(tmp_path / "x.tif", np.asarray(photo), planes=2)
    assert difference(tmp_path / "x.tif", photo) == 0
    tiff(tmp_path / "x.tif", wide, planes=2)  # Pillow opens it, and shows stripes
    with pytest.raises(ImageError, match="16 bits per channel in separate planes: save it"):
        decode(tmp_path / "x.tif", 384, 32)
    grey = np.asarray(photo.convert("L"))
    tiff(tmp_path / "x.tif", 65535 - grey.astype(np.uint16) * 257, photometric=0)  # white is 0
    assert difference(tmp_path / "x.tif", np.stack([grey] * 3, -1)) == 0
    tiff(tmp_path / "x.tif", wide.astype(np.uint32) << 16)
    with pytest.raises(ImageError, match=r"a TIFF of a kind that Pillow cannot read: .* magick IN\.tif -depth 8 OUT"):
        decode(tmp_path / "x.tif", 384, 32)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("compression", [(5, lzw), (8, zlib.compress)], ids=["LZW", "deflate"])
def test_compressed_16_bits_are_read(tmp_path, photo, compression, planes):
    tiff(tmp_path / "x.tif", np.asarray(photo).astype(np.uint16) * 257, planes=planes, compression=compression)
    assert difference(tmp_path / "x.tif", photo) == 0


@pytest.mark.parametrize(
    ("kind", "white"), [("f4", 1), ("f4", 1.0000001), ("f4", 255), ("f4", 65535), ("i4", 255), ("i4", 65535)]
)
def test_32_bits_of_grey_are_scaled_by_their_range(tmp_path, photo, kind, white):
    grey = np.asarray(photo.convert("L")) / 255
    for darkest, brightest in ((0, 1), (0.1, 0.7)):  # as in photographs that have no white in them
        meant = darkest + (brightest - darkest) * (grey - grey.min()) / np.ptp(grey)
        Image.fromarray((meant * white).astype(kind)).save(tmp_path / "x.tif")
        assert difference(tmp_path / "x.tif", np.stack([meant * 255] * 3, -1)) < 1
    tiff(tmp_path / "x.tif", ((1 - meant) * white).astype("f4"), [(339, 3)], photometric=0)  # white is 0
    assert difference(tmp_path / "x.tif", np.stack([meant * 255] * 3, -1)) < 1


@pytest.mark.parametrize("kind", ["f4", "i4"])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 1023), (0, 16383), (0, 100_000), (-9, 255), (-1, 1)])
def test_32_bits_of_grey_whose_white_is_not_plain_are_refused_in_words(tmp_path, kind, low, high):
    Image.fromarray(np.linspace(low, high, 1600).reshape(40, 40).astype(kind)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=rf"grey of 32 bits from {low} to {high:g}.*; scale it to 0–255") as refused:
        decode(tmp_path / "x.tif", 384, 32)
    assert "where white may be 1, 255, 65535" in str(refused.value)


def test_values_that_are_no_number_have_no_white_and_black_needs_none(tmp_path):
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match="grey of 32 bits from nan to nan"):
        decode(tmp_path / "x.tif", 384, 32)
    for kind in ("f4", "i4"):
        Image.fromarray(np.zeros((40, 40), kind)).save(tmp_path / "x.tif")
        assert not decode(tmp_path / "x.tif", 384, 32).any()


def test_a_dark_picture_that_says_its_bits_stays_dark(tmp_path):
    dark = np.full((40, 40), 200, np.uint16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(dark).save(tmp_path / name)
        assert decode(tmp_path / name, 384, 32).max() == 1
    (tmp_path / "x.pgm").write_bytes(b"P5 40 40 65535\n" + dark.astype(">u2").tobytes())
    assert decode(tmp_path / "x.pgm", 384, 32).max() == 1
