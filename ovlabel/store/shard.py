"""The arrays of a chunk as files: one metadata file and one shard file each, which may come from a stranger.

Zarr would run whatever codecs the metadata names, decode as much as the data claim to hold, follow links and wait for
pipes, and take the fill value for what is missing. Here the metadata must be what `arrays.write_arrays` writes, files
are opened as regular files, an inner chunk decodes into a buffer of its known size, and what is missing is said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ovlabel import files
from ovlabel.store import inside
from ovlabel.store.layout import CHUNKS, INNER, METADATA, MOST_VALUES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_METADATA_BYTES = 2**16
_NOWHERE = 2**64 - 1  # place and size, in a shard index, of an inner chunk that is not in the file


@dataclass(frozen=True)
class StoredArray:
    """An array whose metadata has been checked.

    Attributes:
        store: the store.
        shard: its shard file, as seen from the store.
        dtype: "uint8" or "uint16".
        length: how many values it has, from 1 to MOST_VALUES.
        fill: the value of inner chunks that hold nothing else, which earlier versions did not write.
        places: n × 2: place and size, in bytes, of each inner chunk in the shard file; None where there is no file.
    """

    store: Path
    shard: str
    dtype: str
    length: int
    fill: int
    places: npt.NDArray[np.uint64] | None

    def parts(self, start: int, end: int) -> Iterator[npt.NDArray[Any]]:
        """The values from one index to another, in parts of at most 65,536; what is missing has the fill value.

        Args:
            start: index of the first value.
            end: one behind the last, at most `length`.

        Raises:
            OSError: the shard file can't be read.
            ValueError: it is damaged.
        """
        import numpy as np

        with self._file() as file:
            for number in range(start // INNER, -(-end // INNER)):
                first = number * INNER
                values = np.full(INNER, self.fill, self.dtype)
                if file and self.places is not None:
                    place, size = map(int, self.places[number])
                    _decode(file, place, size, values)
                yield values[max(start - first, 0) : end - first]

    def missing(self, start: int, end: int) -> bool:
        """Whether any of the values from one index to another are not in the shard file.

        Args:
            start: index of the first value.
            end: one behind the last.
        """
        if self.places is None:
            return True
        return bool((self.places[start // INNER : -(-end // INNER)] == _NOWHERE).any())

    @contextlib.contextmanager
    def _file(self) -> Iterator[BinaryIO | None]:
        """The shard file, or None where there was none when the array was opened."""
        if self.places is None:
            yield None
            return
        with inside.open_file(self.store, self.shard) as file:
            yield file


def open_array(store: Path, chunk: str, name: str) -> StoredArray:
    """Read and check the metadata and the shard index of an array.

    Args:
        store: the store.
        chunk: its name.
        name: of the array, "labels" for example.

    Raises:
        OSError: a file can't be read, is a link or no regular file.
        ValueError: the array is damaged, or not one that ovlabel writes.
    """
    where = f"{CHUNKS}/{chunk}/{name}"
    data = inside.read_up_to(store, f"{where}/{METADATA}", _METADATA_BYTES)
    try:
        node = files.parse_json(data)
        dtype, (length,), fill = node["data_type"], node["shape"], node["fill_value"]
        plain = all(type(number) is int for number in (length, fill)) and 0 < length <= MOST_VALUES
        right = plain and 0 <= fill < {"uint8": 2**8, "uint16": 2**16}[dtype] and _described(node) == _layout(node)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"its metadata are damaged ({type(error).__name__})") from None
    if not right:
        raise ValueError("its metadata describe another array than ovlabel writes")
    return StoredArray(store, f"{where}/c/0", dtype, length, fill, _places(store, f"{where}/c/0", length))


def _described(node: Any) -> dict[str, Any]:
    """What metadata say of an array, without what makes no difference to reading it."""
    node = {key: value for key, value in node.items() if key not in _FREE}
    (sharding,) = node["codecs"]
    order, compressor = sharding["configuration"]["codecs"]
    codecs = [order if node["data_type"] == "uint16" else {"name": order["name"]}, {"name": compressor["name"]}]
    sharding = {**sharding, "configuration": {**sharding["configuration"], "codecs": codecs}}
    return {**node, "codecs": [sharding], "storage_transformers": node.get("storage_transformers") or []}


_FREE = ("shape", "fill_value", "attributes", "dimension_names")


def _layout(node: Any) -> dict[str, Any]:
    """What `_described` makes of the metadata that ovlabel writes of an array of this type and length."""
    dtype, (length,) = node["data_type"], node["shape"]
    order = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [INNER],
        "codecs": [order if dtype == "uint16" else {"name": "bytes"}, {"name": "zstd"}],
        "index_codecs": [order, {"name": "crc32c"}],
        "index_location": "end",
    }
    shard = {"chunk_shape": [-(-length // INNER) * INNER]}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": shard},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "storage_transformers": [],
    }


def _places(store: Path, shard: str, length: int) -> npt.NDArray[np.uint64] | None:
    """The index at the end of a shard file; None where there is no file."""
    import google_crc32c
    import numpy as np

    count = -(-length // INNER)
    try:
        file = inside.open_file(store, shard)
    except FileNotFoundError:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < 16 * count + 4:
            raise ValueError(f"its shard file is cut: {size} bytes")
        index = os.pread(file.fileno(), 16 * count + 4, size - 16 * count - 4)
    if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise ValueError("the index of its shard file is damaged")
    return np.frombuffer(index[:-4], "<u8").reshape(count, 2)


def _decode(file: BinaryIO, place: int, size: int, values: npt.NDArray[Any]) -> None:
    """Decode one inner chunk into a buffer, or leave that as it is where the chunk is not in the file."""
    from numcodecs.zstd import decompress

    if (place, size) == (_NOWHERE, _NOWHERE):
        return
    if size > 2 * values.nbytes or place >= 2**63:
        raise ValueError(f"an inner chunk of {size} bytes")
    try:
        decompress(os.pread(file.fileno(), size, place), values)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
