"""Small files that would keep a decoder busy for long, or ask it for much memory."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import ImageError
from ovlabel.pictures.jpeg import MAX_SCANS
from ovlabel.pictures.read import decode
from ovlabel.pictures.tiff import _directory
from tests.pictures.test_metadata import PIXELS, chunk, png_with, saved

SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
ZEROS = zlib.compress(bytes(10_000_000))


def quickly(data: bytes, seconds: float = 3) -> np.ndarray:
    start = time.perf_counter()
    try:
        return decode(data)
    finally:
        assert time.perf_counter() - start < seconds


def refused(data: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        quickly(data)


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    data = saved("JPEG", progressive=True)
    for count in (MAX_SCANS, 4000, 40_000):
        refused(data[:-2] + SCAN * count + data[-2:], "scans")
    quickly(data[:-2] + SCAN * 60 + data[-2:])


def test_the_larger_a_jpeg_the_fewer_scans_it_may_have() -> None:
    data = bytearray(saved("JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 16_000, 16_000)
    refused(bytes(data[:-2]) + SCAN * 20 + b"\xff\xd9", "256.0 megapixels in .. scans")


def test_parts_without_number_are_refused() -> None:
    jpeg = saved("JPEG")
    refused(jpeg[:2] + b"\xff\xe5\x00\x02" * 70_000 + jpeg[2:], "segments")
    refused(jpeg[:2] + b"\xff\xd0" * 70_000 + jpeg[2:], "segments")
    refused(png_with(chunk(b"teXt", b"") * 1_050_000), "chunks")
    webp = saved("WEBP", lossless=True)
    refused(webp + b"JUNK\0\0\0\0" * 70_000, "chunks")


def test_pixels_in_very_many_chunks_are_read() -> None:
    data = saved("PNG")
    start = data.index(b"IDAT")
    size = int.from_bytes(data[start - 4 : start], "big")
    body = data[start + 4 : start + 4 + size]
    pieces = b"".join(chunk(b"IDAT", body[at : at + 1]) for at in range(len(body)))
    np.testing.assert_array_equal(quickly(data[:33] + pieces + chunk(b"IDAT", b"") * 100_000), PIXELS)


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
def test_metadata_that_unfold_to_a_hundred_megabytes_are_not_unfolded(name: bytes) -> None:
    many = zlib.compressobj()
    body = b"".join(many.compress(bytes(2**24)) for _ in range(6)) + many.flush()
    np.testing.assert_array_equal(quickly(png_with(chunk(name, b"x\0\0" + body))), PIXELS)


def made(tags: dict[int, list[int]]) -> bytes:
    body = ZEROS + bytes(len(ZEROS) % 2)
    base = {256: [64], 257: [64], 259: [8], 262: [2], 277: [3]}
    start = 8 + len(body)
    return b"II*\0" + start.to_bytes(4, "little") + body + _directory(base | tags, start)


def test_strips_and_tiles_that_unfold_to_more_than_they_are_stay_what_they_are() -> None:
    for bits in (8, 16):
        tags = {258: [bits] * 3, 273: [8], 278: [64], 279: [len(ZEROS)]}
        assert not quickly(made(tags)).any()
    huge = {258: [16] * 3, 322: [2**16], 323: [2**14], 324: [8], 325: [len(ZEROS)]}
    refused(made(huge), "in pieces of 65536 x 16384 pixels")
    refused(made({258: [16] * 3, 277: [65535], 273: [8], 278: [64], 279: [8], 256: [2**14], 257: [2**14]}), "MiB")


def test_pages_that_follow_each_other_in_a_circle_end() -> None:
    data = bytearray(saved("TIFF"))
    first = int.from_bytes(data[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[after : after + 4] = data[4:8]
    np.testing.assert_array_equal(quickly(bytes(data)), PIXELS)


def test_a_jpeg_2000_of_tiny_blocks_is_refused_before_memory_is_asked_for() -> None:
    options = {"codeblock_size": (4, 4), "precinct_size": (4, 4), "no_jp2": True}
    data = bytearray(saved("JPEG2000", np.zeros((64, 64), np.uint8), **options))
    decode(bytes(data))
    data[8:16] = data[24:32] = struct.pack(">II", 8000, 8000)
    refused(bytes(data), "code blocks")


def test_a_jpeg_2000_that_is_cut_is_refused_and_one_without_its_end_is_whole() -> None:
    for options in ({}, {"no_jp2": True}, {"tile_size": (16, 16)}):
        data = saved("JPEG2000", **options)
        np.testing.assert_array_equal(decode(data[:-2]), decode(data))
        for cut in (len(data) - 40, len(data) // 2):
            refused(data[:cut], "a tile is missing")


def test_comments_in_a_ppm_cost_nothing() -> None:
    rows = b"1 2 3 # more\n" * 100
    plain = quickly(b"P3 10 10 255\n" + b"#a\n" * 300_000 + rows)
    assert (plain == (1, 2, 3)).all()
    assert quickly(b"P6 # hello\n10 10 # more\n255\n" + bytes(300)).shape == (10, 10, 3)
    for letter in (b" ", b"#"):
        refused(b"P6" + letter * 2**22 + b"10 10 255\n" + bytes(300), "PPM")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_thousand_frames_cost_as_much_as_one(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (k % 256, k // 256, 0)) for k in range(1000)]
    data = saved(kind, np.asarray(frames[0]), save_all=True, append_images=frames[1:])
    assert quickly(data, 1).shape == (16, 16, 3)


def test_tiles_of_a_jpeg_2000_that_lead_back_end() -> None:
    data = saved("JPEG2000", no_jp2=True)
    tile = data.index(b"\xff\x90")
    main_header = data[:tile]
    for broken in (main_header + b"\xff\x93" + bytes(40), data[: tile + 6] + b"\0\0\0\x0e" + data[tile + 10 :]):
        with contextlib.suppress(ImageError):
            quickly(broken)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("missing", [0, 1, 40])
def test_a_png_without_its_last_rows_fails(interlaced: bool, missing: int) -> None:
    raw = (b"\0" + b"\x50" * 300) * 100
    if interlaced:
        sizes = [(13, 13), (12, 13), (25, 12), (25, 25), (50, 25), (50, 50), (100, 50)]
        raw = b"".join((b"\0" + b"\x50" * 3 * columns) * rows for columns, rows in sizes)
    body = zlib.compress(raw[: len(raw) - 301 * missing])
    head = (100).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, int(interlaced)])
    parts = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    chunks = [len(p).to_bytes(4, "big") + n + p + zlib.crc32(n + p).to_bytes(4, "big") for n, p in parts]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    if missing:
        with pytest.raises(ImageError, match="rows are missing"):
            decode(data)
    else:
        assert (decode(data) == 0x50).all()


def test_a_black_png_is_whole() -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    assert (decode(file.getvalue()) == 0).all()
