"""A store that version 0.1.0 wrote is read, verified, exported, scored and carried on as it is.

`store-0.1.0/`: four scenes, annotated by that version's `ovlabel demo FOLDER --scenes 4`, and `score.json`, what its
`ovlabel score sclip.zarr truth --json` printed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.cli import main
from ovlabel.run.job import prepare
from ovlabel.settings.reading import load_config
from ovlabel.store.layout import group
from ovlabel.store.read import open_store
from ovlabel.store.verify import verify

SAMPLE = Path(__file__).parent / "store-0.1.0"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the store, its photographs with their times of modification, and its ground truth."""
    return shutil.copytree(SAMPLE, tmp_path / "sample")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_manifest_would_be_written_byte_for_byte_alike(place: Path) -> None:
    store = open_store(place / "sclip.zarr")
    assert group(store.manifest.to_json()) == (place / "sclip.zarr" / "zarr.json").read_bytes()
    assert (len(store), len(store.classes), store.failed, store.damaged) == (4, 25, {}, {})
    assert [entry.id for entry in store.classes] == list(range(25))


def test_it_verifies(place: Path) -> None:
    report = verify(place / "sclip.zarr")
    assert (report.images, report.clean, report.unfinished) == (4, True, [])


def test_it_is_exported_as_it_was_labelled(place: Path) -> None:
    assert main(["export", str(place / "sclip.zarr"), str(place / "out")]) == 0
    for key, image in open_store(place / "sclip.zarr").items():
        exported = np.asarray(Image.open((place / "out" / key).with_suffix(".png")))
        np.testing.assert_array_equal(exported, image.labels)


def test_it_scores_to_the_same_figures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(place / "sclip.zarr"), str(place / "truth"), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told == json.loads((SAMPLE / "score.json").read_text())


def test_annotate_redoes_nothing(place: Path) -> None:
    """The file times of a copy differ, so the content of each image is compared; its labels are taken as they are."""
    before = {key: image.labels.tobytes() for key, image in open_store(place / "sclip.zarr").items()}
    arrays = {name: data for name, data in files_of(place / "sclip.zarr").items() if "/c/" in name}
    config = load_config("sclip", {"encoder.model": "demo", "text.vocabulary": "demo"})
    for _ in prepare(place / "images", config, place / "sclip.zarr").run():
        pass
    after = open_store(place / "sclip.zarr")
    assert {key: image.labels.tobytes() for key, image in after.items()} == before
    assert {name: data for name, data in files_of(place / "sclip.zarr").items() if "/c/" in name} == arrays
    assert {image.record.chunk for image in after.values()} == {"00000001-de41af4a"}
    assert prepare(place / "images", config, place / "sclip.zarr").idle
