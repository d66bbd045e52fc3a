"""File hashes that are taken once, and a cache that may fail without harm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ovlabel.files import cache_dir, file_sha256, occupied, passed_over, write_atomic


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"first")
    return path


def memo() -> Path:
    (path,) = (cache_dir() / "hashes").iterdir()
    return path


def replace_content(path: Path, data: bytes) -> None:
    """Other bytes of the same length under the same modification time."""
    stat = path.stat()
    assert len(data) == stat.st_size
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_hash_is_the_sha256_of_the_content(file: Path) -> None:
    assert file_sha256(file) == sha256(b"first")


def test_an_empty_and_a_large_file_are_hashed(tmp_path: Path) -> None:
    for data in (b"", bytes(3_000_000)):
        path = tmp_path / str(len(data))
        path.write_bytes(data)
        assert file_sha256(path) == sha256(data)


def test_a_file_is_read_once(file: Path) -> None:
    file_sha256(file)
    replace_content(file, b"other")
    assert file_sha256(file) == sha256(b"first"), "size and time are the same, so it is not read"


def test_another_time_or_size_is_read_anew(file: Path) -> None:
    file_sha256(file)
    replace_content(file, b"other")
    os.utime(file, ns=(1, 1))
    assert file_sha256(file) == sha256(b"other")
    file.write_bytes(b"longer than before")
    os.utime(file, ns=(1, 1))
    assert file_sha256(file) == sha256(b"longer than before")


def test_a_link_shares_the_memory_of_its_file(file: Path, tmp_path: Path) -> None:
    file_sha256(file)
    (tmp_path / "link").symlink_to(file)
    replace_content(file, b"other")
    assert file_sha256(tmp_path / "link") == sha256(b"first")


def test_two_files_are_not_confused(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "A", os.fsdecode(b"\xff"))]
    for index, path in enumerate(paths):
        path.write_bytes(bytes([index]))
        os.utime(path, ns=(1, 1))
    for _ in range(2):
        assert [file_sha256(path) for path in paths] == [sha256(bytes([index])) for index in range(3)]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"no json at all"])
def test_a_damaged_memory_is_ignored_and_mended(content: bytes, file: Path) -> None:
    file_sha256(file)
    memo().write_bytes(content)
    assert file_sha256(file) == sha256(b"first")
    replace_content(file, b"other")
    assert file_sha256(file) == sha256(b"first"), "it was written anew"


def test_a_cache_that_cannot_be_written_is_no_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_bytes(b"a file where the cache's folder should be")
    monkeypatch.setenv("OVLABEL_CACHE", str(tmp_path / "taken"))
    assert file_sha256(file) == sha256(b"first")
    replace_content(file, b"other")
    assert file_sha256(file) == sha256(b"other"), "nothing could be remembered"
    assert (tmp_path / "taken").is_file()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "nowhere")


def test_writing_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVLABEL_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("OVLABEL_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "ovlabel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "ovlabel"


@pytest.mark.parametrize("content", ["{}", "[]", "null", "3"])
def test_a_memo_of_another_shape_is_ignored(content: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    first = file_sha256(tmp_path / "f")
    (memo,) = (cache_dir() / "hashes").iterdir()
    memo.write_text(content)
    assert file_sha256(tmp_path / "f") == first


@pytest.mark.parametrize(
    ("names", "over"),
    [
        ((".hidden", "._a.jpg", ".DS_Store", ".ipynb_checkpoints", ".Trash-1000", ".@__thumb"), True),
        (("lost+found", "LOST.DIR", "System Volume Information", "$RECYCLE.BIN", "RECYCLER", "Thumbs.db"), True),
        (("@eaDir", "#recycle", "#snapshot", "@Recycle", "__MACOSX", "desktop.ini", "Icon\r"), True),
        (("a.jpg", "found", "recycle", "#1.jpg", "@home", "$a.png", "thumbs", "_a.jpg", "lost+found.jpg", ""), False),
    ],
)
def test_what_belongs_to_a_system_is_passed_over(names: tuple[str, ...], over: bool) -> None:
    assert [passed_over(name) for name in names] == [over] * len(names)


def test_a_folder_with_what_is_passed_over_alone_is_not_occupied(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "@eaDir").mkdir()
    assert not occupied(tmp_path)
    assert not occupied(tmp_path / "not there")
    assert occupied(tmp_path / ".DS_Store"), "a file is no folder to write to"
    (tmp_path / "a").touch()
    assert occupied(tmp_path)
