"""What is listed in a folder, and what becomes of the bytes of an image file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovlabel.errors import ConfigError, ImageError
from ovlabel.images import SUFFIXES, decode, list_images, read_file

RNG = np.random.default_rng(0)


def keys(folder: Path) -> list[str]:
    return [item.key for item in list_images(folder)]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def file_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


# ---------------------------------------------------------------- listing


def test_keys_are_sorted_paths_with_slashes(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/deep/er/1.tif", "a.jpg", "Z.jpg")
    assert keys(tmp_path) == ["Z.jpg", "a.jpg", "a/deep/er/1.tif", "a/z.png", "b.jpg"]


def test_an_item_carries_path_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "1.jpg"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1234567890123456789))
    (item,) = list_images(tmp_path)
    assert (item.key, item.path, item.size, item.mtime_ns) == ("a/1.jpg", path, 5, 1234567890123456789)


def test_suffixes_count_in_any_case_and_other_files_do_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b.Png", "c.jpeg", "d.txt", "e", "jpg", "f.jpg.part", "g.jpg ")
    assert keys(tmp_path) == ["a.JPG", "b.Png", "c.jpeg"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_listed(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, f"a{suffix}")
    assert keys(tmp_path) == [f"a{suffix}"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".b.jpg", "._a.jpg", ".git/c.jpg", "d/.cache/e.jpg", "d/.f.jpg", ".jpg")
    assert keys(tmp_path) == ["a.jpg"]


def test_stores_are_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out.zarr/b.jpg", "c/OUT.ZARR/d.jpg", "c/e.jpg")
    assert keys(tmp_path) == ["a.jpg", "c/e.jpg"]


def test_linked_folders_are_not_entered_so_a_loop_ends(tmp_path: Path) -> None:
    touch(tmp_path, "photographs/a/1.jpg", "elsewhere/2.jpg")
    folder = tmp_path / "photographs"
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "loop.jpg").symlink_to(folder)
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    assert keys(folder) == ["a/1.jpg"]


def test_a_linked_file_is_taken_as_the_file_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"123")
    (tmp_path / "folder" / "link.jpg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (item,) = list_images(tmp_path / "folder")
    assert (item.key, item.size) == ("link.jpg", 3)


def test_a_folder_named_like_an_image_is_entered(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/y.jpg", "x.png")
    assert keys(tmp_path) == ["x.jpg/y.jpg", "x.png"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert keys(tmp_path / "link") == ["a.jpg"]


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert keys(tmp_path) == []


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert keys(tmp_path) == []


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_what_is_no_folder_is_refused_by_name(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "file.jpg")
    with pytest.raises(ConfigError, match=name):
        list_images(tmp_path / name)


@pytest.mark.parametrize("name", ["größe.jpg", "写真.png", "🐈.jpg", "a b\tc.jpg", "two\nlines.jpg", "back\\slash.jpg"])
def test_any_name_is_a_key(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    (item,) = list_images(tmp_path)
    assert item.key == name
    assert read_file(item.path)[0] == b"x"


def test_a_name_in_no_encoding_is_a_key(tmp_path: Path) -> None:
    raw = b"caf\xe9\xff.jpg"
    (tmp_path / os.fsdecode(raw)).write_bytes(b"x")
    (item,) = list_images(tmp_path)
    assert os.fsencode(item.key) == raw
    assert read_file(item.path)[0] == b"x"


def test_names_that_differ_by_case_are_two_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "A.jpg", "a.JPG")
    assert keys(tmp_path) == ["A.jpg", "a.JPG", "a.jpg"]


def test_a_file_that_is_gone_is_an_image_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_file(tmp_path / "gone.jpg")


def test_the_hash_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert read_file(tmp_path / "a.jpg") == (b"abc", expected)


# ---------------------------------------------------------------- unreadable files


def test_zero_bytes_are_said_to_be_empty() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


def test_a_truncated_jpeg_is_said_to_be_truncated() -> None:
    data = file_bytes(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"these are words, no picture\n" * 20, b"\xff\xd8\xff", b"\0" * 500])
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode(data)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_damaged_bytes_give_an_image_or_an_image_error(kind: str, data: st.DataObject) -> None:
    good = bytearray(file_bytes(Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)), kind))
    spot = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(spot, min_size=1, max_size=4)):
        good[place] = value
    cut = data.draw(st.integers(0, len(good)))
    try:
        image = decode(bytes(good[:cut]))
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


# ---------------------------------------------------------------- pixel formats


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999))
def test_lossless_rgb_comes_back_exactly(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    decoded = decode(file_bytes(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.c_contiguous


def test_sixteen_bit_grey_is_scaled_to_eight_bits() -> None:
    grey = np.array([[0, 1, 128, 129, 385], [257, 32896, 33023, 65534, 65535]], np.uint16)
    decoded = decode(file_bytes(Image.fromarray(grey), "PNG"))
    expected = np.array([[0, 0, 0, 1, 1], [1, 128, 128, 255, 255]], np.uint8)
    np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))


def test_eight_bit_grey_becomes_three_equal_channels() -> None:
    grey = noise(5, 7, 1)[..., 0]
    np.testing.assert_array_equal(decode(file_bytes(Image.fromarray(grey), "PNG")), np.dstack([grey] * 3))


def test_cmyk_is_read_as_the_colours_it_shows() -> None:
    cmyk = Image.new("CMYK", (32, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    decoded = decode(file_bytes(cmyk, "JPEG", quality=95))
    assert decoded.shape == (16, 32, 3)
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() < 12


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    decoded = decode(file_bytes(image, "PNG", transparency=1))
    np.testing.assert_array_equal(decoded, [[[255, 0, 0], [255, 255, 255]]])


def test_a_palette_without_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    np.testing.assert_array_equal(decode(file_bytes(image, "PNG")), [[[255, 0, 0], [0, 0, 255]]])


def test_rgba_is_laid_on_white() -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    decoded = decode(file_bytes(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(decoded, [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]])


def test_grey_with_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[40, 255], [40, 0]]], np.uint8)
    decoded = decode(file_bytes(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(decoded, [[[40, 40, 40], [255, 255, 255]]])


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (3, 1))
    image.putdata([0, 1, 0])
    np.testing.assert_array_equal(decode(file_bytes(image, "PNG")), [[[0] * 3, [255] * 3, [0] * 3]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:16, :16] = (255, 0, 0)
    upright[:16, 16:] = (0, 255, 0)
    upright[32:, :16] = (0, 0, 255)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the viewer turns it by 270°
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(file_bytes(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "green")]
    data = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_array_equal(decode(data), np.full((4, 6, 3), (255, 0, 0)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 5000), (5000, 20)])
def test_extreme_sizes_keep_their_shape(height: int, width: int) -> None:
    pixels = noise(height, width)
    np.testing.assert_array_equal(decode(file_bytes(Image.fromarray(pixels), "PNG")), pixels)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    header = Image.new("1", (1, 1))
    data = bytearray(file_bytes(header, "BMP"))
    data[18:26] = (60000).to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(bytes(data))


def test_a_link_to_itself_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert list_images(tmp_path) == []
