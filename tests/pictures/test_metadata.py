"""Good pixels are read whatever state the metadata around them are in; pixels that are missing are still missed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from ovlabel.errors import ImageError
from ovlabel.pictures.read import decode, decode_first

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
TURN = 6


def saved(kind: str, pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    entries = Image.Exif()
    entries[0x0112], entries[0x010F], entries[0x011A] = TURN, "a maker of cameras", 72.0
    entries.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    return entries


def chunk(name: bytes, body: bytes, *, intact: bool = True) -> bytes:
    checksum = zlib.crc32(name + body) ^ (not intact)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png_with(*chunks: bytes) -> bytes:
    data = saved("PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def spans(kind: str, data: bytes) -> list[int]:
    """The places of bytes that hold metadata only, without the sizes that say where pixels begin."""
    if kind == "JPEG":
        start = data.index(b"Exif\0\0")
        return [*range(start, start + int.from_bytes(data[start - 2 : start], "big") - 2)]
    if kind == "PNG":
        start = data.index(b"eXIf")
        return [*range(start - 4, start + 8 + int.from_bytes(data[start - 4 : start], "big"))]
    if kind == "WEBP":
        start = data.index(b"EXIF")
        return [*range(start, len(data))]
    if kind == "AVIF":
        start = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
        return [*range(start - 4, start + 100)]
    return tiff_metadata(data)


def tiff_metadata(data: bytes) -> list[int]:
    """The entries of tags that have nothing to do with pixels, after the number of the tag."""
    first = TiffImagePlugin.ImageFileDirectory_v2(data[:8]).next
    places: list[int] = []
    for at in range(first + 2, first + 2 + 12 * int.from_bytes(data[first : first + 2], "little"), 12):
        if int.from_bytes(data[at : at + 2], "little") in (271, 282, 34665):
            places += range(at + 2, at + 12)
    return places


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_damaged_metadata_changes_no_pixel(kind: str) -> None:
    data = saved(kind, exif=exif(), **({"lossless": True} if kind == "WEBP" else {}))
    whole, places, chance = decode(data), spans(kind, data), random.Random(3)
    assert whole.shape == (60, 40, 3)
    turns = [np.rot90(whole, turns) for turns in range(4)]
    turns += [turned[::-1] for turned in turns]
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.choice(places)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        decoded = decode(bytes(damaged))
        assert any(np.array_equal(decoded, turned) for turned in turns), "at most the orientation is another"


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack(">HHII", tag, kind, count, value)


@pytest.mark.parametrize(
    "odd",
    [
        entry(0x011A, 2, 4, 0x61626364),  # a resolution in letters
        entry(0x011A, 10, 1, 38),  # a negative one
        entry(0x02BC, 3, 2, 0x00010002),  # XMP in numbers of 16 bits
        entry(0x0103, 8, 1, 0xFFFF0000),  # a negative number where none can be
        entry(0x8769, 4, 1, 0xFFFFFFFF),  # a directory beyond the end
        entry(0x010F, 2, 0xFFFFFFFF, 8),  # a text of four gigabytes
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_one_odd_entry_keeps_the_orientation(odd: bytes, kind: str) -> None:
    turn = entry(0x0112, 3, 1, TURN << 16)
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + turn + odd + struct.pack(">Iii", 0, -72, 1)
    decoded = decode(saved(kind, exif=block, **({"lossless": True} if kind == "WEBP" else {})))
    assert decoded.shape == (60, 40, 3)
    if kind != "JPEG":
        np.testing.assert_array_equal(decoded, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"tEXt", b"Comment\0hello", intact=False),
        chunk(b"pHYs", bytes(9), intact=False),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"nonsense"), intact=False),
        chunk(b"iCCP", b"profile\0\0nonsense"),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"iTXt", b"text\0\1\0\0\0" + b"no deflate"),
        chunk(b"eXIf", b"nonsense"),
        chunk(b"sBIT", b""),
        chunk(b"tIME", b""),
        chunk(b"acTL", b"") + chunk(b"fcTL", b""),
        chunk(b"tRNS", bytes(6), intact=False),
        chunk(b"teXt", b"x" * 100)[:40],  # cut, so that its size leads nowhere
    ],
)
def test_an_odd_chunk_beside_the_pixels_of_a_png_changes_nothing(odd: bytes) -> None:
    np.testing.assert_array_equal(decode(png_with(odd)), PIXELS)


def test_a_png_without_its_end_or_with_more_behind_it_is_whole() -> None:
    data = saved("PNG")
    for changed in (data[:-12], data[:-1], data + b"more", data + data):
        np.testing.assert_array_equal(decode(changed), PIXELS)
    with pytest.raises(ImageError):
        decode(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_a_jpeg_that_lacks_its_end_alone_is_whole(progressive: bool, flat: bool) -> None:
    data = saved("JPEG", np.full_like(PIXELS, 90) if flat else PIXELS, progressive=progressive)
    whole = decode(data)
    for changed in (data[:-2], data[:-1], data + b"junk", data + data[2:]):
        np.testing.assert_array_equal(decode(changed), whole)
    for missing in (5, 10, 20):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-missing])


def test_a_progressive_jpeg_that_lacks_whole_scans_is_truncated() -> None:
    data = saved("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans are missing"):
        decode(data[:last])


def test_the_metadata_of_a_jpeg_may_be_anything() -> None:
    data, whole = saved("JPEG"), decode(saved("JPEG"))
    for segment in (
        b"\xff\xe0\x00\x08JFIF\0\0",
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x10ICC_PROFILE\0\xff\xff",
        b"\xff\xe2\x00\x10MPF\0nonsense.." + b"\xff\xe2\x00\x02",
        b"\xff\xed\x00\x1cPhotoshop 3.0\0" + b"8BIM" + b"\xff" * 8,
        b"\xff\xfe\x00\x04hi",
        b"\xff\xfe\x00\x04hi" + b"garbage between segments",
    ):
        np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), whole)


def profile(gamma_of: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(gamma_of)).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_of_srgb_or_a_damaged_one_changes_nothing(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    plain, srgb = decode(saved(kind, **options)), profile("sRGB")
    for icc in (srgb, srgb[:200], b"nonsense", srgb[:16] + b"GRAY" + srgb[20:], profile("LAB")):
        np.testing.assert_array_equal(decode(saved(kind, icc_profile=icc, **options)), plain)


def wide_gamut() -> bytes:
    """A profile like sRGB's with red and green exchanged: no colour stays the same."""
    srgb = profile("sRGB")
    return srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_of_another_profile_become_srgb(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    flat = np.full((8, 8, 3), (200, 40, 90), np.uint8)
    decoded = decode(saved(kind, flat, icc_profile=wide_gamut(), **options)).astype(int)
    assert np.abs(decoded - (40, 200, 90)).max() < 8


def test_frames_beyond_the_first_are_still_told_of() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, n, axis=0)) for n in range(1, 4)]
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        assert decode_first(saved(kind, save_all=True, append_images=frames)).more_frames
