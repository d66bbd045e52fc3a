"""`ovlabel.score`: a store and ground truth by their paths, in one call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ovlabel
from ovlabel.errors import ConfigError, StoreError, TruthError
from ovlabel.evaluation.truth import CONVENTIONS
from ovlabel.store.example import write_example

MANUAL = Path(ovlabel.__file__).parent / "evaluation" / "README.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def test_a_store_is_scored_by_its_path_or_opened(folder: Path) -> None:
    done: list[str] = []
    scores = ovlabel.score(str(folder / "images.ovlabel.zarr"), str(folder / "truth"), on_image=done.append)
    np.testing.assert_array_equal(scores.counts, [[2, 0, 0, 0], [1, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    assert (list(scores.images), done) == (["a.png", "b.png"], ["a.png", "b.png"])
    again = ovlabel.score(ovlabel.open_store(folder / "images.ovlabel.zarr"), folder / "truth", "raw")
    assert again.to_json() == scores.to_json()
    assert scores.boundaries is None


def test_boundaries_are_scored_where_they_are_asked_for(folder: Path) -> None:
    values = ovlabel.score(folder / "images.ovlabel.zarr", folder / "truth", boundaries=True).to_json()
    assert 0 < values["boundary_f1"] <= 1
    assert 0 < values["boundary_iou"] <= 1


def test_a_class_map_is_given_as_a_mapping_or_as_a_file(folder: Path) -> None:
    store, truth = folder / "images.ovlabel.zarr", folder / "truth"
    mapped = ovlabel.score(store, truth, class_map={"cat": "dog"})
    np.testing.assert_array_equal(mapped.counts[:2, :2], [[0, 2], [0, 4]])
    (folder / "map.toml").write_text('cat = "dog"\n')
    for path in (folder / "map.toml", str(folder / "map.toml")):
        np.testing.assert_array_equal(ovlabel.score(store, truth, class_map=path).counts, mapped.counts)


def test_masks_without_an_annotated_image_are_refused_unless_allowed(folder: Path) -> None:
    (folder / "truth" / "c.png").write_bytes((folder / "truth" / "a.png").read_bytes())
    store, truth = folder / "images.ovlabel.zarr", folder / "truth"
    with pytest.raises(TruthError, match=r"1 of 3 masks have no annotated image \(c\)"):
        ovlabel.score(store, truth)
    assert ovlabel.score(store, truth, allow_partial=True).masks == 3


def test_what_is_not_there_is_named(folder: Path) -> None:
    store = folder / "images.ovlabel.zarr"
    with pytest.raises(StoreError, match="nowhere"):
        ovlabel.score(folder / "nowhere.zarr", folder / "truth")
    with pytest.raises(TruthError, match="no ground truth at"):
        ovlabel.score(store, folder / "nowhere")
    with pytest.raises(TruthError, match="unknown ground-truth convention 'vox'"):
        ovlabel.score(store, folder / "truth", "vox")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        ovlabel.score(store, folder / "truth", class_map=folder / "nowhere.toml")


def test_the_manual_lists_every_convention() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    assert [name for name in CONVENTIONS if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ovlabel.evaluation.truth", ("numpy", "PIL", "scipy", "zarr", "torch")),
        ("ovlabel.formats", ("numpy", "PIL", "scipy", "zarr", "torch")),
        ("ovlabel.evaluation.scoring", ("PIL", "scipy", "zarr", "torch", "matplotlib")),
    ],
)
def test_importing_it_costs_little(module: str, heavy: tuple[str, ...]) -> None:
    """A help screen lists conventions and formats."""
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
