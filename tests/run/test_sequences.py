"""Adding, changing, renaming, deleting, corrupting, crashing, running, in any order, against a model of the store."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

from ovlabel.errors import StoreError
from ovlabel.run.job import default_store, prepare
from ovlabel.run.listing import Selection
from ovlabel.run.options import RunOptions
from ovlabel.store.read import open_store
from ovlabel.store.verify import repair, verify
from ovlabel.types import UInt8Image
from tests.run.test_job import CONFIG, Fake

NAMES = st.sampled_from(["a.png", "b/a.png", "b/c.png", "d.png", "é\n.png", "z.PNG"])
BROKEN = 0  # the content that is no image
CONTENTS = st.integers(0, 5)


class _Crash(BaseException):
    """The power goes."""


class _Power:
    """Goes at the n-th thing asked of the file system below a folder, and stays away until somebody turns it on."""

    def __init__(self) -> None:
        self.left, self.below = -1, "\0"
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left < 0 or not event.startswith(("os.", "open", "shutil.")) or not arguments:
            return
        if isinstance(arguments[0], str | bytes | Path) and str(arguments[0]).startswith(self.below):
            if self.left == 0:
                raise _Crash
            self.left -= 1


_POWER = _Power()


def pixels(content: int) -> UInt8Image:
    return np.random.default_rng(content).integers(0, 256, (8, 9, 3), dtype=np.uint8)


class Folder(RuleBasedStateMachine):
    """`files`: name → content. `ran`: what the last whole run saw. `rotten`: whether the store was corrupted since."""

    @initialize()
    def begin(self) -> None:
        self.where = Path(tempfile.mkdtemp())
        self.folder = self.where / "in"
        self.folder.mkdir()
        self.out = default_store(self.folder)
        self.files: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.rotten = False
        self.time = 10**18

    def teardown(self) -> None:
        shutil.rmtree(self.where, ignore_errors=True)

    def _write(self, name: str, content: int) -> None:
        import os

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == BROKEN:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(pixels(content)).save(path, "PNG")
        self.time += 10**9
        os.utime(path, ns=(self.time, self.time))
        self.files[name] = content

    @rule(name=NAMES, content=CONTENTS)
    def add_or_change(self, name: str, content: int) -> None:
        self._write(name, content)

    @precondition(lambda self: self.files)
    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        name = name if name in self.files else min(self.files)
        if name != other:
            (self.folder / other).parent.mkdir(exist_ok=True)
            (self.folder / name).rename(self.folder / other)
            self.files[other] = self.files.pop(name)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.files.pop(name, None) is not None:
            (self.folder / name).unlink()

    @rule(file=st.integers(0, 10**6), place=st.integers(0, 10**6), bits=st.integers(1, 255))
    def corrupt(self, file: int, place: int, bits: int) -> None:
        files = sorted(path for path in self.out.glob("chunks/0*/**/*") if path.is_file() and path.stat().st_size)
        if files:
            path = files[file % len(files)]
            content = bytearray(path.read_bytes())
            content[place % len(content)] ^= bits
            path.write_bytes(content)
            self.rotten = True

    @rule(steps=st.integers(0, 60), prune=st.booleans())
    def crash(self, steps: int, prune: bool) -> None:
        _POWER.below, _POWER.left = str(self.out), steps
        try:
            with contextlib.suppress(_Crash):
                self._run(prune)
        finally:
            _POWER.left = -1

    @rule(prune=st.booleans())
    def run(self, prune: bool) -> None:
        self._run(prune)
        if not self.files and not (self.out / "zarr.json").exists():
            return  # no image, and a run that made the store died before it was one
        store = open_store(self.out)
        if not self.rotten:
            self._is_right(prune)
            assert verify(store).clean
            assert not store.unfinished

    @precondition(lambda self: self.rotten)
    @rule()
    def repair_and_run(self) -> None:
        if (self.out / "zarr.json").exists():
            repair(open_store(self.out))
            assert verify(open_store(self.out)).clean
            self.rotten = False
            self.run(False)

    def _run(self, prune: bool) -> None:
        selection = Selection(prune=prune and bool(self.files))
        for _ in prepare(self.folder, CONFIG, options=RunOptions(selection=selection, chunk_size=2)).run(
            make=Fake().make
        ):
            pass

    def _is_right(self, pruned: bool) -> None:
        """The store holds what the folder holds: done with the labels of its content, or failed."""
        store = open_store(self.out)
        done = {name for name, content in self.files.items() if content != BROKEN}
        assert done <= set(store)
        assert {name for name, content in self.files.items() if content == BROKEN} <= set(store.failed)
        assert not set(store.failed) & done
        if pruned and self.files:
            assert set(store.records) == set(self.files)
        for name in done:
            np.testing.assert_array_equal(store[name].labels, pixels(self.files[name])[..., 0] // 86)

    @invariant()
    def nothing_read_is_ever_wrong(self) -> None:
        """An annotated image reads as one of the contents, whole; or, where the store was corrupted, as an error."""
        if not hasattr(self, "out") or not (self.out / "zarr.json").exists():
            return
        wanted = {pixels(content).tobytes(): pixels(content) for content in range(1, 6)}
        for stored in open_store(self.out).values():
            try:
                labels, confidence = stored.labels, stored.confidence
            except StoreError:
                assert self.rotten
                continue
            assert any(
                np.array_equal(labels, image[..., 0] // 86) and np.array_equal(np.rint(confidence * 255), image[..., 1])
                for image in wanted.values()
            )


TestFolder = Folder.TestCase
TestFolder.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
