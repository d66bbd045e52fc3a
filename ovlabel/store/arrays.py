"""The arrays of a chunk, written and read with zarr. No other module uses zarr.

The pixels of a chunk's images lie one image after another in arrays of one dimension, `labels` and `confidence`, and
their kept probability maps in `classes` and `probabilities`. Each array is one shard file (Zarr's sharding codec) of
inner chunks of 65,536 values, compressed with Zstandard, so that one image is read without the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel import files
from ovlabel.store.layout import INNER, chunk_path, naming_failures
from ovlabel.store.record import Record, crc32
from ovlabel.types import Annotation, not_annotated

if TYPE_CHECKING:
    import numpy.typing as npt

_OPEN = 64  # arrays kept open for reading


def write_arrays(
    path: Path, name: str, entries: Sequence[tuple[Record, Annotation | None]], classes: int
) -> list[Record]:
    """Write the arrays of a new chunk, and force them to the disk. They count once a commit adopts them.

    This needs no lock: workers of a cluster write arrays, and the process that holds the lock commits them.

    Args:
        path: the store.
        name: of the chunk, from `layout.new_name`.
        entries: record and annotation of each image; None for an image that has no arrays of its own.
        classes: how many the store has.

    Returns:
        The records, with the place and the checksums of the arrays that belong to them.

    Raises:
        StoreError: the disk is full, the store was removed, or permission is missing.
    """
    node = chunk_path(path, name)
    with naming_failures(path):
        node.mkdir()
        records, pixel, position = [], 0, 0
        for record, annotation in entries:
            if annotation is None:
                records.append(record)
                continue
            records.append(_placed(record, annotation, pixel, position))
            pixel += annotation.labels.size
            position += 0 if annotation.probabilities is None else annotation.probabilities.size
        _put_all(node, [annotation for _, annotation in entries if annotation is not None], classes)
        files.sync_tree(node)
    return records


class ArrayReader:
    """Reads stretches of a store's arrays, and keeps those open that were read last.

    Args:
        path: the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[tuple[str, str], Any] = {}

    def read(self, chunk: str, name: str, start: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A stretch of one array.

        Args:
            chunk: its name.
            name: "labels", "confidence", "classes" or "probabilities".
            start: index of the first value.
            shape: of the result; it says how many values are read.

        Raises:
            ValueError: the array is too short, or not one that this version writes.
            Exception: whatever zarr raises for an array that is damaged or gone.
        """
        import numpy as np

        array, end = self._array(chunk, name), start + math.prod(shape)
        if end > array.shape[0]:
            raise ValueError(f"it ends at {array.shape[0]}, before {end}")
        return np.asarray(array[start:end]).reshape(shape)

    def _array(self, chunk: str, name: str) -> Any:
        """An array, opened once for the images that follow in its chunk."""
        import zarr

        if (chunk, name) not in self._open:
            if len(self._open) >= _OPEN:
                self._open = {}
            array = zarr.open_array(chunk_path(self._path, chunk) / name, mode="r", zarr_format=3)
            if array.ndim != 1 or array.dtype.name not in ("uint8", "uint16") or array.chunks != (INNER,):
                raise ValueError(f"an array of {array.ndim} dimensions of {array.dtype}, in parts of {array.chunks}")
            self._open[chunk, name] = array
        return self._open[chunk, name]


def _placed(record: Record, annotation: Annotation, pixel: int, position: int) -> Record:
    """The record with the sizes, places and checksums of the image's arrays."""
    import numpy as np

    parts = (annotation.labels, annotation.confidence, annotation.classes, annotation.probabilities)
    return replace(
        record,
        height=annotation.labels.shape[0],
        width=annotation.labels.shape[1],
        working=annotation.working_size,
        maps=0 if annotation.probabilities is None else len(annotation.probabilities),
        pixel=pixel,
        map=position,
        reduced=annotation.reduced,
        sums=tuple(crc32(np.ascontiguousarray(part)) for part in parts if part is not None),
    )


def _put_all(node: Path, made: Sequence[Annotation], classes: int) -> None:
    """All arrays of a chunk; those that would hold nothing are not written."""
    _put(node, "labels", [a.labels for a in made], not_annotated(classes))
    _put(node, "confidence", [a.confidence for a in made], 0)
    _put(node, "classes", [a.classes for a in made if a.classes is not None], 0)
    _put(node, "probabilities", [a.probabilities for a in made if a.probabilities is not None], 0)


def _put(node: Path, name: str, parts: Sequence[npt.NDArray[Any]], fill: int) -> None:
    """One array of one dimension that holds all parts, flattened, in a single shard file."""
    if not parts:
        return
    import numpy as np
    import zarr
    from zarr.codecs import ZstdCodec

    flat = np.concatenate([np.ravel(part) for part in parts])
    array = zarr.create_array(
        node / name,
        shape=flat.shape,
        dtype=flat.dtype,
        chunks=(INNER,),
        shards=(-(-len(flat) // INNER) * INNER,),
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=fill,
    )
    array[:] = flat
