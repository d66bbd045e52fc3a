"""The arrays of a chunk, written with zarr and read back with their checksums. No other module uses zarr.

The pixels of a chunk's images lie one image after another in arrays of one dimension, `labels` and `confidence`, and
their kept probability maps in `classes` and `probabilities`. Each array is one shard file (Zarr's sharding codec) of
inner chunks of 65,536 values, compressed with Zstandard, so that one image is read without the others (`shard.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel import files
from ovlabel.store.layout import INNER, chunk_path, naming_failures, refuse_link
from ovlabel.store.record import Record, crc32
from ovlabel.store.shard import StoredArray, open_array
from ovlabel.types import Annotation, not_annotated

if TYPE_CHECKING:
    import numpy.typing as npt

_KNOWN = 64  # arrays whose places in their files are kept in mind


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
        refuse_link(path)
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
    """Reads stretches of a store's arrays, and keeps the places of those in mind that were read last.

    Args:
        path: the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str], StoredArray] = {}

    def read(self, record: Record, name: str) -> npt.NDArray[Any]:
        """What one array holds of an image.

        Args:
            record: the image's; its `chunk` is named.
            name: "labels", "confidence", "classes" or "probabilities".

        Returns:
            The values, in the shape that the record says.

        Raises:
            OSError: a file of the array can't be read.
            ValueError: the array is damaged, or does not hold what the record vouches for.
        """
        import numpy as np

        array, start, shape = self._array(record, name), *record.stretch(name)
        values = np.empty(math.prod(shape), array.dtype)
        at = 0
        for part in array.parts(start, start + values.size):
            values[at : at + part.size] = part
            at += part.size
        _compare(array, record, name, crc32(values))
        return values.reshape(shape)

    def check(self, record: Record, name: str) -> None:
        """Read what one array holds of an image, piece by piece in little memory. Raises as `read` does.

        Args:
            record: the image's; its `chunk` is named.
            name: of the array.
        """
        array, start, shape = self._array(record, name), *record.stretch(name)
        found = 0
        for part in array.parts(start, start + math.prod(shape)):
            found = crc32(part, found)
        _compare(array, record, name, found)

    def _array(self, record: Record, name: str) -> StoredArray:
        """An array that holds all of an image's stretch; opened once for the images that follow in its chunk."""
        if name not in record.arrays:
            raise ValueError(f"no {name} are kept of this image")
        known, place = self._known, (record.chunk, name)
        if place not in known:
            known = self._known = {} if len(known) >= _KNOWN else known
            known[place] = open_array(self._path, *place)
        array, (start, shape) = known[place], record.stretch(name)
        if array.dtype != "uint8" and name in ("confidence", "probabilities"):
            raise ValueError(f"it is of {array.dtype}")
        if (end := start + math.prod(shape)) > array.length:
            raise ValueError(f"it ends at {array.length}, before {end}")
        return array


def _compare(array: StoredArray, record: Record, name: str, found: int) -> None:
    """Raise ValueError unless the values that were found have the checksum that the record gives."""
    if found == dict(zip(record.arrays, record.sums, strict=True))[name]:
        return
    start, shape = record.stretch(name)
    lost = array.missing(start, start + math.prod(shape))
    raise ValueError("its values are not in the shard file" if lost else "the checksum does not fit")


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
        dimension_names=("pixel",) if name in ("labels", "confidence") else ("value",),
        config={"write_empty_chunks": True},  # what is missing is lost then, and never meant to be the fill value
    )
    array[:] = flat
