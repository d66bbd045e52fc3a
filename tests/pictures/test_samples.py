"""Samples are read as their file says: bits that are used, meaning, planes, and channels that are no opacity."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ovlabel.errors import ImageError
from ovlabel.pictures.read import Decoded, decode, decode_first
from ovlabel.pictures.tiff import read_samples
from ovlabel.pictures.tiff_tags import layout_of, strip
from tests.pictures.test_metadata import chunk, saved

Y, X = np.mgrid[0:45, 0:53]
RGB = np.dstack([X * 255 // 52, Y * 255 // 44, (X + Y) * 255 // 96]).astype(np.uint8)
GREY = RGB[..., 0]


def tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"metadata": None, **options})
    return buffer.getvalue()


def shifted(values: np.ndarray, bits: int, kind: str = "u2") -> np.ndarray:
    return values.astype(kind) << (bits - 8)


def png16(values: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def shows(data: bytes, expected: np.ndarray, most: int = 0) -> Decoded:
    decoded = decode_first(data)
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= most
    return decoded


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", "<>")
def test_few_bits_in_sixteen_are_scaled_and_told_of(bits: int, planar: str, order: str) -> None:
    colours = shifted(RGB, bits)
    stored = colours if planar == "contig" else np.moveaxis(colours, 2, 0)
    assert shows(tiff(stored, photometric="rgb", planarconfig=planar, byteorder=order), RGB).guessed_range
    assert shows(tiff(shifted(GREY, bits), byteorder=order), GREY).guessed_range
    assert shows(png16(colours, 2), RGB).guessed_range
    assert shows(png16(shifted(GREY, bits)[..., None], 0), GREY).guessed_range
    assert shows(b"P6 53 45 65535\n" + colours.astype(">u2").tobytes(), RGB).guessed_range
    assert shows(b"P5 53 45 65535\n" + colours[..., 0].astype(">u2").tobytes(), GREY).guessed_range
    assert shows(saved("JPEG2000", colours[..., 0], irreversible=False), GREY).guessed_range


def test_all_sixteen_bits_are_no_guess() -> None:
    for data, expected in (
        (tiff(shifted(RGB, 16), photometric="rgb"), RGB),
        (tiff(shifted(GREY, 16)), GREY),
        (png16(shifted(RGB, 16), 2), RGB),
        (png16(shifted(np.dstack([RGB, GREY * 0 + 255]), 16), 6), None),
    ):
        decoded = decode_first(data)
        assert not decoded.guessed_range
        if expected is not None:
            shows(data, expected, most=1)


def test_what_the_file_declares_is_no_guess() -> None:
    twelve, dark = shifted(GREY, 12), GREY.astype("u2") * 0 + 4000
    assert not shows(tiff(twelve, extratags=[(281, "H", 1, 4095, True)]), GREY).guessed_range
    assert not shows(tiff(dark, extratags=[(281, "H", 1, 65535, True)]), dark // 257, most=1).guessed_range
    assert not shows(png16(dark[..., None], 0, chunk(b"sBIT", b"\x10")), dark // 257, most=1).guessed_range
    assert not shows(png16(shifted(RGB, 12), 2, chunk(b"sBIT", b"\x0c" * 3)), RGB).guessed_range
    for maxval in (1000, 1023, 4095):
        samples = (RGB.astype(int) * maxval // 255).astype(">u2")
        assert not shows(b"P6 53 45 %d\n" % maxval + samples.tobytes(), RGB, most=1).guessed_range
        assert not shows(b"P5 53 45 %d\n" % maxval + samples[..., 0].tobytes(), GREY, most=1).guessed_range


def test_grey_and_opacity_in_few_of_sixteen_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="16 bits a sample, of which only some are used"):
        decode(png16(shifted(np.dstack([GREY, GREY]), 12), 4))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_samples_packed_without_gaps(bits: int) -> None:
    fields = (shifted(RGB, bits)[..., None] >> np.arange(bits)[::-1] & 1).reshape(45, -1).astype(np.uint8)
    packed = np.packbits(fields, axis=1)
    from ovlabel.pictures.tiff import _directory

    tags = {256: [53], 257: [45], 258: [bits] * 3, 259: [1], 262: [2], 273: [8], 277: [3], 278: [45]}
    body = packed.tobytes() + bytes(packed.size % 2)
    head = b"II*\0" + (8 + len(body)).to_bytes(4, "little")
    data = head + body + _directory(tags | {279: [packed.size]}, 8 + len(body))
    assert not shows(data, RGB).guessed_range


# ---------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize(
    ("values", "guessed"),
    [
        ((GREY / 255).astype("f4"), False),
        ((GREY / 255).astype("f2"), False),
        ((GREY / 255).astype("f8"), False),
        (GREY.astype("f4"), False),
        (GREY.astype("f4") * 257, True),
        (GREY.astype("i2") * 128, False),
        (GREY.astype("u4"), True),
        (GREY.astype("i4") * 257, True),
        (GREY.astype("u4") << 24, False),
    ],
)
def test_numbers_of_every_kind(values: np.ndarray, guessed: bool) -> None:
    assert shows(tiff(values), GREY).guessed_range is guessed
    inverted = 1 - values if values.dtype.kind == "f" and values.max() <= 1 else None
    if inverted is not None:
        shows(tiff(inverted.astype(values.dtype), photometric="miniswhite"), GREY, most=1)


@pytest.mark.parametrize(
    "values",
    [GREY.astype("i2") * 100 - 9000, (GREY / 127 - 1).astype("f4"), (GREY / 50).astype("f4"), GREY.astype("f4") * 9e9],
)
def test_ranges_that_nobody_names_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ImageError, match="black and white"):
        decode(tiff(values))


def test_pixels_without_a_number_are_black_and_change_no_other() -> None:
    values = (GREY / 255).astype("f4")
    values[0, 0] = np.nan
    expected = GREY.copy()
    expected[0, 0] = 0
    shows(tiff(values), expected)
    with pytest.raises(ImageError, match="float samples"):
        decode(tiff(values * np.nan))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ImageError, match="complex"):
        decode(tiff(GREY.astype("c8")))


# ---------------------------------------------------------------- meaning


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_white_is_zero(bits: int) -> None:
    values = (2**bits - 1) - shifted(GREY, bits)
    shows(tiff(values.astype("u1" if bits == 8 else "u2"), photometric="miniswhite"), GREY, most=1)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("extra", "opaque"), [([0], True), ([1], False), ([2], False), ([0, 0], True), ([2, 0], False)]
)
def test_a_further_band_is_opacity_only_where_the_file_says_so(
    kind: str, planar: str, extra: list[int], opaque: bool
) -> None:
    bands = np.dstack([RGB * (extra[0] != 1), *[GREY * 0] * len(extra)])
    bands = shifted(bands, 16) + (bands > 250) if kind == "u2" else bands
    stored = bands if planar == "contig" else np.moveaxis(bands, 2, 0)
    data = tiff(stored.astype(kind), photometric="rgb", planarconfig=planar, extrasamples=extra)
    decoded = shows(data, RGB if opaque else np.full_like(RGB, 255))
    assert decoded.more_bands is (len(extra) > (not opaque))


def test_a_fourth_band_of_which_nothing_is_said_is_no_opacity() -> None:
    data = tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=[0])
    tag = struct.pack("<HHIH", 338, 3, 1, 0)
    assert data.count(tag) == 1
    assert shows(data.replace(tag, struct.pack("<HHIH", 0x8000, 3, 1, 0)), RGB).more_bands


def test_bands_without_names_are_refused() -> None:
    with pytest.raises(ImageError, match="13 samples a pixel; which are red"):
        decode(tiff(np.dstack([RGB] * 4 + [GREY]), photometric="minisblack", planarconfig="contig"))


def test_colour_maps_of_sixteen_and_of_eight_bits() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    for colours in (ramp * 257, ramp):
        shows(tiff(GREY, photometric="palette", colormap=colours), GREY)


def test_inks() -> None:
    inks = np.asarray(Image.fromarray(RGB).convert("CMYK"))
    for values in (inks, shifted(inks, 16)):
        shows(tiff(values, photometric="separated"), RGB)
        shows(tiff(np.moveaxis(values, 2, 0), photometric="separated", planarconfig="separate"), RGB)


def test_uncompressed_luma_and_chroma_are_refused_by_name() -> None:
    with pytest.raises(ImageError, match="YCbCr"):
        decode(saved_image(Image.fromarray(RGB).convert("YCbCr"), "TIFF"))


def saved_image(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_opacity_that_the_file_does_not_name() -> None:
    clear = Image.fromarray(np.dstack([RGB, GREY * 0]))
    tga = bytearray(saved_image(clear, "TGA"))
    shows(bytes(tga), np.full_like(RGB, 255))
    tga[17] &= 0xF0
    shows(bytes(tga), RGB)
    assert not shows(saved_image(clear, "JPEG2000"), np.full_like(RGB, 255)).more_bands
    assert shows(saved_image(clear, "JPEG2000", no_jp2=True), RGB).more_bands


@pytest.mark.parametrize("turn", range(1, 9))
def test_samples_are_turned_like_any_other(turn: int) -> None:
    plain = decode(tiff(RGB, photometric="rgb", extratags=[(274, "H", 1, turn, True)]))
    wide = tiff(shifted(RGB, 16), photometric="rgb", extratags=[(274, "H", 1, turn, True)])
    np.testing.assert_array_equal(decode(wide), plain)


# ---------------------------------------------------------------- arrangements


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("tile", [None, (32, 16)])
def test_samples_equal_those_of_another_reader(kind: str, bands: int, tile: tuple[int, int] | None) -> None:
    values = np.random.default_rng(0).integers(0, 200, (45, 53, bands)).astype(kind)
    extra = {"extrasamples": [2, 0]} if bands == 5 else {}
    wanted = min(bands, 4)
    for planar in ("contig", "separate") if bands > 1 else (None,):
        stored = np.moveaxis(values, 2, 0) if planar == "separate" else values.squeeze()
        for compression, predictor, order in ((None, False, ">"), ("zlib", kind != "f4", "<"), ("lzma", False, ">")):
            data = tiff(
                stored,
                photometric="rgb" if bands > 1 else "minisblack",
                planarconfig=planar,
                compression=compression,
                predictor=predictor,
                tile=tile,
                rowsperstrip=None if tile else 7,
                byteorder=order,
                **extra,
            )
            whole, _, _ = strip(data)
            np.testing.assert_array_equal(read_samples(whole, layout_of(whole)).values, values[..., :wanted])


def test_a_tiff_of_sixteen_bits_that_is_cut_is_refused() -> None:
    data = tiff(shifted(RGB, 16), photometric="rgb", compression="zlib", rowsperstrip=5)
    for cut in range(9, len(data), 331):
        with pytest.raises(ImageError):
            decode(data[:cut])
