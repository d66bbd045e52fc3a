"""What is listed in a folder, and what becomes of the bytes of an image file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovlabel.errors import ConfigError, ImageError, VanishedError
from ovlabel.pictures import colour, limits, read, samples
from ovlabel.pictures.read import decode, decode_first, read_file
from ovlabel.run.listing import SUFFIXES, list_images, list_named

RNG = np.random.default_rng(0)
STATUS = Path("/proc/self/status")


@contextlib.contextmanager
def watchdog(seconds: int = 10) -> Iterator[None]:
    """An error, not a wait for ever, where the code inside blocks."""

    def bark(*_: object) -> None:
        raise AssertionError(f"blocked for {seconds} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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


def put_what_is_no_file(folder: Path) -> None:
    """A pipe, a socket, a device and links that lead nowhere, all named like images."""
    os.mkfifo(folder / "pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(folder):  # a socket's path has 108 bytes at the most
        server.bind("socket.jpg")
    server.close()
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "ping.jpg").symlink_to("pong.jpg")
    (folder / "pong.jpg").symlink_to("ping.jpg")
    (folder / "nowhere.jpg").symlink_to("nothing")
    (folder / "below.jpg").symlink_to("plain.png/nothing")
    (folder / "linked pipe.jpg").symlink_to("pipe.jpg")
    touch(folder, "plain.png")


def test_pipes_sockets_devices_and_broken_links_are_not_listed(tmp_path: Path) -> None:
    put_what_is_no_file(tmp_path)
    left_out: list[str] = []
    with watchdog():
        (item,) = list_images(tmp_path, left_out)
    assert item.key == "plain.png"
    assert left_out == []


@pytest.mark.parametrize("name", ["pipe.jpg", "socket.jpg", "device.jpg", "linked pipe.jpg", "."])
def test_what_is_no_regular_file_is_refused_without_blocking(name: str, tmp_path: Path) -> None:
    put_what_is_no_file(tmp_path)
    with watchdog(), pytest.raises(ImageError, match="not a regular file") as refusal:
        read_file(tmp_path / name)
    assert not isinstance(refusal.value, VanishedError)
    assert isinstance(refusal.value.__cause__, OSError)


class Entry:
    """An entry of a folder whose file can't be looked at."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.path, self.number = name, name, number

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return False

    def stat(self) -> os.stat_result:
        raise OSError(self.number, os.strerror(self.number))


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, listing: Callable[[], list[Entry]]) -> None:
    """Replace what is listed in folders of a name."""
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listing() if Path(path).name == name else scandir(path))


def refuse(number: int) -> list[Entry]:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
@pytest.mark.parametrize("files", [False, True])
def test_a_folder_that_cannot_be_read_is_left_out(
    number: int, files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "closed/2.jpg", "closed/in/3.jpg", "z.jpg")
    spoil(monkeypatch, "closed", lambda: [Entry("2.jpg", number)] if files else refuse(number))
    left_out: list[str] = []
    assert [item.key for item in list_images(tmp_path, left_out)] == ["a/1.jpg", "z.jpg"]
    assert left_out == ["closed/"]
    with pytest.raises(ConfigError, match="cannot read folder"):
        list_images(tmp_path / "closed")


def test_what_vanishes_during_the_walk_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "gone/1.jpg", "going/2.jpg")
    spoil(monkeypatch, "gone", lambda: refuse(errno.ENOENT))
    spoil(monkeypatch, "going", lambda: [Entry("2.jpg", errno.ENOENT)])
    left_out: list[str] = []
    assert [item.key for item in list_images(tmp_path, left_out)] == ["a.jpg"]
    assert left_out == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_folder_without_the_right_to_read_is_left_out(mode: int, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "closed/1.jpg")
    (tmp_path / "closed").chmod(mode)
    left_out: list[str] = []
    try:
        assert [item.key for item in list_images(tmp_path, left_out)] == ["a.jpg"]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert left_out == ["closed/"]


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Callable[[str, int], None]]:
    """Makes folders in each other, an image in each; paths may be longer than the system's limit."""

    def make(name: str, levels: int) -> None:
        handle = os.open(tmp_path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=handle)
            inner = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
            os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        os.close(handle)

    yield make
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # shutil.rmtree, and pytest with it, has a limit of levels


def test_a_thousand_levels_are_walked(tmp_path: Path, deep: Callable[[str, int], None]) -> None:
    deep("d", 1000)
    left_out: list[str] = []
    found = list_images(tmp_path, left_out)
    assert {item.key for item in found} == {"d/" * level + "a.jpg" for level in range(1, 1001)}
    assert left_out == []
    assert read_file(max(found, key=lambda item: len(item.key)).path).data == b""


@pytest.mark.parametrize("shift", range(8))  # the limit may fall on the file's name or on the folder's
def test_a_path_beyond_the_systems_limit_is_left_out(
    shift: int, tmp_path: Path, deep: Callable[[str, int], None]
) -> None:
    name = "d" * (200 + shift)
    deep(name, 30)
    left_out: list[str] = []
    found = {item.key for item in list_images(tmp_path, left_out)}
    assert len(found) in range(10, 25)
    assert left_out
    for level in range(1, 31):
        key = f"{name}/" * level + "a.jpg"
        assert (key in found) != key.startswith(tuple(left_out))


def test_a_root_path_beyond_the_systems_limit_is_refused(tmp_path: Path) -> None:
    for root in ("x" * 300, "x/" * 3000):
        with pytest.raises(ConfigError, match="no folder"):
            list_images(tmp_path / root)


def test_an_empty_folder_gives_no_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert keys(tmp_path) == []


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_what_is_no_folder_is_refused_by_name(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "file.jpg")
    with pytest.raises(ConfigError, match=name):
        list_images(tmp_path / name)


@pytest.mark.parametrize("name", ["größe.jpg", "写真.png", "🐈.jpg", "a b\tc.jpg", "two\nlines.jpg", "back\\slash.jpg"])
def test_any_file_name_can_be_a_key(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    (item,) = list_images(tmp_path)
    assert item.key == name
    assert read_file(item.path)[0] == b"x"


def test_a_file_name_that_is_not_utf8_can_be_a_key(tmp_path: Path) -> None:
    raw = b"caf\xe9\xff.jpg"
    (tmp_path / os.fsdecode(raw)).write_bytes(b"x")
    (item,) = list_images(tmp_path)
    assert os.fsencode(item.key) == raw
    assert read_file(item.path)[0] == b"x"


def test_names_that_differ_by_case_are_two_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "A.jpg", "a.JPG")
    assert keys(tmp_path) == ["A.jpg", "a.JPG", "a.jpg"]


# ---------------------------------------------------------------- named images


def named(folder: Path, *names: str) -> tuple[list[str], list[str]]:
    absent: list[str] = []
    return [item.key for item in list_named(folder, names, absent)], absent


def test_named_images_are_sorted_and_each_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.PNG", "a.jpg", "c.jpg", ".h.jpg")
    names = ["b.jpg", "./a.jpg", "a//z.PNG", "a/../b.jpg", str(tmp_path / "b.jpg"), "a.jpg", ".h.jpg"]
    assert named(tmp_path, *names) == ([".h.jpg", "a.jpg", "a/z.PNG", "b.jpg"], [])


def test_a_named_image_is_the_listed_one(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "2.jpg")
    assert list_named(tmp_path, ["2.jpg", "a/1.jpg"], []) == list_images(tmp_path)


def test_absolute_names_may_go_through_the_folder_or_the_target_of_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real/a.jpg", "real/b.jpg")
    (tmp_path / "link").symlink_to("real")
    both = [str(tmp_path / "link" / "a.jpg"), str(tmp_path / "real" / "b.jpg")]
    assert named(tmp_path / "link", *both) == (["a.jpg", "b.jpg"], [])
    monkeypatch.chdir(tmp_path / "real")
    assert named(Path("../link"), *both) == (["a.jpg", "b.jpg"], [])
    assert named(Path(), str(tmp_path / "real" / "a.jpg"), "b.jpg") == (["a.jpg", "b.jpg"], [])
    with pytest.raises(ConfigError, match=r"link/a\.jpg lies outside"):
        named(Path(), *both)


def test_a_name_outside_the_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "out.jpg", "in2/a.jpg")
    for name in ("../out.jpg", "a/../../out.jpg", "..", "/etc/x.jpg", str(tmp_path / "in2" / "a.jpg")):
        with pytest.raises(ConfigError, match="lies outside the folder") as refusal:
            named(tmp_path / "in", "a.jpg", name)
        assert str(refusal.value).startswith(name)
    touch(tmp_path, "in/..a.jpg")
    assert named(tmp_path / "in", "..a.jpg") == (["..a.jpg"], [])


def test_a_name_without_an_image_is_reported_as_absent(tmp_path: Path) -> None:
    put_what_is_no_file(tmp_path)
    touch(tmp_path, "a.jpg", "words.txt", "jpg", "folder.jpg/b.png")
    (tmp_path / "link.jpg").symlink_to("words.txt")
    absent = ["pipe.jpg", "socket.jpg", "device.jpg", "itself.jpg", "ping.jpg", "nowhere.jpg", "below.jpg"]
    absent += ["gone.jpg", "words.txt", "jpg", "folder.jpg", ".", "a.jpg/b.jpg", "nul\0.jpg", "\ud800.jpg"]
    absent += ["x" * 300 + ".jpg", "x/" * 3000 + "a.jpg"]
    with watchdog():
        assert named(tmp_path, *absent[:9], "a.jpg", "link.jpg", *absent[9:]) == (["a.jpg", "link.jpg"], absent)
    assert named(tmp_path, "") == ([], [""])


@pytest.mark.parametrize("raw", [b"two\nlines.jpg", b"caf\xe9\xff.jpg", b" a \t.jpg", "größe.jpg".encode()])
def test_images_with_any_file_name_can_be_named(raw: bytes, tmp_path: Path) -> None:
    name = os.fsdecode(raw)
    touch(tmp_path, name)
    assert named(tmp_path, name) == ([name], [])
    assert named(tmp_path, str(tmp_path / name)) == ([name], [])
    with pytest.raises(ConfigError) as refusal:
        named(tmp_path, f"../{name}")
    assert str(refusal.value).isprintable()


def test_naming_images_of_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        named(tmp_path / "missing", "a.jpg")


# ---------------------------------------------------------------- reading


def test_reading_gives_content_sha256_and_modification_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1234567890123456789))
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = read_file(path)
    assert content == (b"abc", expected, 1234567890123456789)
    assert (content.data, content.sha256, content.mtime_ns) == content


@pytest.mark.parametrize("name", ["gone.jpg", "no folder/a.jpg", "file.jpg/a.jpg", "dangling.jpg"])
def test_a_missing_file_raises_vanished_error(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "file.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nothing")
    with pytest.raises(VanishedError, match=r"No such file|Not a directory") as refusal:
        read_file(tmp_path / name)
    assert isinstance(refusal.value.__cause__, FileNotFoundError | NotADirectoryError)


def test_an_unreadable_file_does_not_raise_vanished_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(read, "open_regular", fail)
    for error, reason in ((PermissionError(13, "Permission denied"), "Permission denied"), (MemoryError(), "memory")):
        with pytest.raises(ImageError, match=f"cannot read the file: .*{reason}") as refusal:
            read_file(tmp_path / "a.jpg")
        assert refusal.value.__cause__ is error
        assert not isinstance(refusal.value, VanishedError)


def test_a_link_to_itself_does_not_raise_vanished_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    with pytest.raises(ImageError, match="cannot read the file") as refusal:
        read_file(tmp_path / "a.jpg")
    assert not isinstance(refusal.value, VanishedError)


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    os.truncate(path, read.MAX_FILE_BYTES + 1)  # a hole: no bytes on the disk
    with watchdog(), pytest.raises(ImageError, match="1073741825 bytes; more than 1024 MiB are not read"):
        read_file(path)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_FILE_BYTES", 4)
    (tmp_path / "a.jpg").write_bytes(b"1234")
    assert read_file(tmp_path / "a.jpg").data == b"1234"
    (tmp_path / "a.jpg").write_bytes(b"12345")
    with pytest.raises(ImageError, match="5 bytes"):
        read_file(tmp_path / "a.jpg")


class Disturbed(io.FileIO):
    """A file that something happens to after each read, as often as there are things left to happen."""

    happenings: list[Callable[[Path], object]]
    reads: int

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(size)
        assert data is not None
        type(self).reads += 1
        if self.happenings:
            self.happenings.pop(0)(Path(str(self.name)))
        return data


def disturb(monkeypatch: pytest.MonkeyPatch, *happenings: Callable[[Path], object]) -> None:
    Disturbed.happenings, Disturbed.reads = list(happenings), 0
    monkeypatch.setattr(read, "open_regular", Disturbed)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch_again(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])
    touch_again(path)


def shrink(path: Path) -> None:
    os.truncate(path, 1)


@pytest.mark.parametrize("happening", [grow, touch_again, rewrite, shrink])
@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    happening: Callable[[Path], object], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abcde")
    if happening is shrink and times == 2:
        times = 1  # the second one changes nothing but the time
    disturb(monkeypatch, *[happening] * times)
    content = read_file(path)
    assert Disturbed.reads == times + 1
    assert content == (path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)


def test_a_file_that_keeps_changing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abcde")
    disturb(monkeypatch, *[grow] * 9)
    with pytest.raises(ImageError, match="keeps changing while it is read"):
        read_file(tmp_path / "a.jpg")
    assert Disturbed.reads == 3


def test_a_file_that_vanishes_while_it_is_read_again_has_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abcde")

    def vanish(path: Path) -> None:
        grow(path)
        path.unlink()

    disturb(monkeypatch, vanish)
    with pytest.raises(VanishedError):
        read_file(tmp_path / "a.jpg")


def test_a_short_read_is_not_taken_for_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(io.FileIO):
        def read(self, size: int = -1, /) -> bytes:
            return (super().read(size) or b"")[:3]

    (tmp_path / "a.jpg").write_bytes(b"abcde")
    monkeypatch.setattr(read, "open_regular", Short)
    with pytest.raises(ImageError, match="keeps changing"):
        read_file(tmp_path / "a.jpg")


# ---------------------------------------------------------------- unreadable files


def test_an_empty_file_is_reported_as_empty() -> None:
    with pytest.raises(ImageError, match="empty"):
        decode(b"")


def test_a_truncated_jpeg_is_reported_as_truncated() -> None:
    data = file_bytes(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"these are words, no picture\n" * 20, b"\xff\xd8\xff", b"\0" * 500])
def test_a_file_that_is_no_image_is_reported_as_such(data: bytes) -> None:
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(orientation: int, kind: str) -> None:
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
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode(file_bytes(stored, kind, exif=exif, **options))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < (4 if kind == "JPEG" else 1e-9)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "green")]
    data = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_array_equal(decode(data), np.full((4, 6, 3), (255, 0, 0)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 5000), (5000, 20)])
def test_extreme_sizes_keep_their_shape(height: int, width: int) -> None:
    pixels = noise(height, width)
    np.testing.assert_array_equal(decode(file_bytes(Image.fromarray(pixels), "PNG")), pixels)


# ---------------------------------------------------------------- sizes


def bmp_header(width: int, height: int) -> bytes:
    data = bytearray(file_bytes(Image.new("1", (1, 1)), "BMP"))
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    message = "an image of 3600000000 pixels; more than 268 megapixels are not decoded"
    with pytest.raises(ImageError, match=message) as refusal:
        decode(bmp_header(60000, 60000))
    assert isinstance(refusal.value.__cause__, Image.DecompressionBombError)


def test_a_side_beyond_the_limit_is_refused() -> None:
    for width, height in ((2**18 + 1, 3), (3, 2**18 + 1)):
        with pytest.raises(ImageError, match="a side of 262145 pixels; more than 262144 are not decoded"):
            decode(bmp_header(width, height))
    long = np.zeros((1, 2**18, 3), np.uint8)
    np.testing.assert_array_equal(decode(file_bytes(Image.fromarray(long), "PNG")), long)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000", "TGA", "PPM"])
def test_the_limit_of_pixels_does_not_depend_on_pillows_own_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    fits, larger = (file_bytes(Image.new("RGB", size, "red"), kind) for size in ((40, 25), (43, 24)))
    for limit in (10, None, 10**9):  # of the program that ovlabel is part of
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        filters = list(warnings.filters)
        assert decode(fits).shape == (25, 40, 3)
        with pytest.raises(ImageError, match="1032 pixels"):
            decode(larger)
        assert limit == Image.MAX_IMAGE_PIXELS
        assert filters == warnings.filters


def test_several_threads_leave_pillow_and_the_warnings_as_they_were() -> None:
    frames = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    data = file_bytes(frames[0], "PNG", save_all=True, append_images=frames[1:])
    at = data.index(b"acTL")
    chunk = b"acTL" + bytes(4) + data[at + 8 : at + 12]  # no frames: Pillow warns
    warns = data[:at] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[at + 16 :]
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(warns))
    before, filters, failed = Image.MAX_IMAGE_PIXELS, list(warnings.filters), []

    def work() -> None:
        try:
            for _ in range(150):
                assert not decode_first(warns)[1]
                with contextlib.suppress(ImageError):
                    decode(bmp_header(60000, 60000))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert before == Image.MAX_IMAGE_PIXELS
    assert filters == warnings.filters


@pytest.mark.skipif(not STATUS.exists(), reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_hundred_megapixels_are_decoded_in_little_memory(kind: str, tmp_path: Path) -> None:
    save = "Image.new('RGB', (10_000, 10_000), (200, 100, 50)).save(sys.argv[1], sys.argv[2], compress_level=1)"
    load = """
from pathlib import Path
from ovlabel.pictures.read import decode
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
decode(Path(sys.argv[3]).read_bytes())
data = Path(sys.argv[1]).read_bytes()
before = peak()
image = decode(data)
print(image.shape, image[::999, ::999].reshape(-1, 3).max(0), (peak() - before) / image[..., 0].size)
"""
    paths = [str(tmp_path / "large"), kind, str(tmp_path / "small")]
    Image.new("RGB", (9, 9)).save(paths[2], kind)
    for script in (save, load):
        command = [sys.executable, "-W", "error", "-c", f"import sys\nfrom PIL import Image\n{script}", *paths]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("(10000, 10000, 3) [200 100  50] ")
    assert float(done.stdout.split()[-1]) < 7.6  # bytes a pixel: Pillow's 4, the array's 3, a band


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_converting_in_bands_gives_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "TIFF" if mode in ("CMYK", "F") else "PNG"
    grey = noise(23, 17, 1)[..., 0]
    image = {
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "F": lambda: Image.fromarray((grey / 255).astype(np.float32)),
    }.get(mode, lambda: Image.fromarray(noise(23, 17, 4), "RGBA" if mode != "CMYK" else "CMYK").convert(mode))()
    data = file_bytes(image, kind, **({"transparency": 7} if mode == "P" else {}))
    whole = decode(data)
    for pixels in (1, 17 * 4, 17 * 23):
        monkeypatch.setattr(colour, "_BAND_PIXELS", pixels)
        monkeypatch.setattr(samples, "_BAND_PIXELS", pixels)
        np.testing.assert_array_equal(decode(data), whole)


# ---------------------------------------------------------------- further frames


def frames_of(kind: str, count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(noise(24, 32)).convert("P" if kind == "GIF" else "RGB") for _ in range(count)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_further_frames_are_reported(kind: str) -> None:
    first, *others = frames_of(kind)
    options = {"lossless": True} if kind == "WEBP" else {}
    several = file_bytes(first, kind, save_all=True, append_images=others, **options)
    image, more, *_ = decode_first(several)
    assert more
    np.testing.assert_array_equal(image, np.asarray(first.convert("RGB")))
    np.testing.assert_array_equal(image, decode(several))
    alone, more, *_ = decode_first(file_bytes(first, kind, **options))
    assert not more
    np.testing.assert_array_equal(image, alone)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "PPM", "TGA", "JPEG2000"])
def test_formats_of_one_frame_report_no_further_frames(kind: str) -> None:
    assert decode_first(file_bytes(frames_of(kind)[0], kind))[1] is False


def test_the_previews_of_a_phones_jpeg_are_no_frames() -> None:
    first, *others = frames_of("MPO")
    data = file_bytes(first, "MPO", save_all=True, append_images=others)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    image, more, *_ = decode_first(data)
    assert not more
    assert image.shape == (24, 32, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_damage_after_the_first_frame_does_not_refuse_the_file(kind: str) -> None:
    first, *others = frames_of(kind)
    data = file_bytes(first, kind, save_all=True, append_images=others)
    single = decode(file_bytes(first, kind))
    decoded = set()
    for cut in range(len(data) // 4, len(data), 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(data[:cut])) as opened:
                    opened.load()
            except Exception:
                continue
        image, more, *_ = decode_first(data[:cut])
        np.testing.assert_array_equal(image, single)
        decoded.add(more)
    assert decoded == {True, False} if kind == "GIF" else decoded == {True}


def test_eps_is_refused_because_pillow_would_run_ghostscript() -> None:
    with pytest.raises(ImageError, match="not an image in a format"):
        decode(file_bytes(Image.new("RGB", (8, 8)), "EPS"))


def test_a_link_to_itself_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    assert list_images(tmp_path) == []
