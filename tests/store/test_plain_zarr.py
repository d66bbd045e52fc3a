"""A store as other programs see it, with zarr and xarray alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from ovlabel.store.read import open_store
from ovlabel.store.write import writing
from tests.conftest import commit
from tests.store.test_store import new_store, random_annotation, record


def test_the_dimensions_of_arrays_have_names(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a"), random_annotation(np.random.default_rng(0)))])
    (_, chunk), *_ = zarr.open_group(store.path, mode="r")["chunks"].groups()
    names = {name: array.metadata.dimension_names for name, array in chunk.arrays()}
    assert names == {
        "labels": ("pixel",),
        "confidence": ("pixel",),
        "classes": ("value",),
        "probabilities": ("value",),
    }


def test_xarray_opens_a_chunk(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a"), random_annotation(np.random.default_rng(0)))])
    opened = xarray.open_zarr(store.path, group=f"chunks/{store['a'].record.chunk}", consolidated=False)
    assert opened["labels"].dims == ("pixel",)
    assert opened["labels"].values.tolist() == store["a"].labels.ravel().tolist()


@pytest.mark.parametrize("group", ["", "chunks"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_consolidated_metadata_hide_no_later_commit(group: str, tmp_path: Path) -> None:
    store, rng = new_store(tmp_path / "s.zarr"), np.random.default_rng(0)
    commit(store, [(record("a"), random_annotation(rng))])
    root = store.path / "zarr.json"
    node = json.loads(root.read_text())
    node["attributes"]["note of another program"] = 7
    root.write_text(json.dumps(node))
    zarr.consolidate_metadata(store.path, path=group or None)
    assert "consolidated_metadata" in json.loads((store.path / group / "zarr.json").read_text())
    with writing(store.path) as held:
        held.commit([(record("b"), random_annotation(rng)), (replace(held["a"].record, key="c"), None)])
    seen = [dict(chunk.attrs)["images"] for _, chunk in zarr.open_group(store.path, mode="r")["chunks"].groups()]
    assert sorted(image["key"] for images in seen for image in images) == ["a", "b", "c"]
    assert open_store(store.path).manifest == replace(store.manifest, others={"note of another program": 7})
