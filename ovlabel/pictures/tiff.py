"""TIFF files: what their tags say of the samples decides how they are read.

Pillow reads samples of up to eight bits in the usual arrangements. It has no place for others, or reads them wrongly
without a word: it keeps the high bytes of 16-bit colours, takes any fourth sample for opacity, and unpacks 16-bit
planes as bytes. Those are read here: libtiff, by way of Pillow, unpacks strips and tiles to bytes, and the tags say
the rest.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin

from ovlabel.errors import ImageError
from ovlabel.pictures.samples import Samples
from ovlabel.pictures.tiff_tags import WHITE_IS_ZERO, Layout, numbers_of

_YCBCR = 6
_MOST_BYTES = 2**31  # of all samples
_GROUP_BYTES = 2**24  # that are unpacked at once


class Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader of TIFF, which turns nothing and looks at no metadata after loading."""

    def load_end(self) -> None:
        """Take the size of the pixels as they are stored."""
        self._size = self.im.size

    def load(self) -> Any:
        """Load the pixels; a colour map of eight bits, which is against the rules but usual, is taken for one."""
        if self.tile and self.mode in ("P", "PA") and max(self.tag_v2[TiffImagePlugin.COLORMAP]) < 256:
            assert self.palette is not None
            self.palette.palette = bytes(self.tag_v2[TiffImagePlugin.COLORMAP])
        return super().load()


def open_usual(data: bytes, layout: Layout) -> Tiff:
    """Open a TIFF whose layout is `usual` in Pillow.

    Raises:
        ImageError: Pillow does not know its samples, or would read them wrongly.
    """
    try:
        if layout.photometric == _YCBCR and layout.compression == 1:
            raise SyntaxError("uncompressed YCbCr")
        return Tiff(io.BytesIO(data))
    except SyntaxError as error:
        raise ImageError(
            f"a TIFF whose samples can't be read ({layout.samples} of {layout.bits} bits, PhotometricInterpretation "
            f"{layout.photometric}, compression {layout.compression}): {error}"
        ) from error


def read_samples(data: bytes, layout: Layout) -> Samples:
    """Read the colours and the opacity of a TIFF as they are stored.

    Args:
        data: the file.
        layout: what its tags say; not `usual`.

    Raises:
        ImageError: the samples are of a kind that is not understood, too many, or not all there.
    """
    _check(layout)
    wanted = layout.colours + bool(layout.opacity)
    planes = wanted if layout.planar else 1
    read = [_plane(data, layout, plane) for plane in range(planes)]
    values = np.concatenate(read, axis=2) if layout.planar else read[0][..., :wanted]
    return Samples(values, layout.bits, _declared(layout), bool(layout.opacity), layout.photometric == WHITE_IS_ZERO)


def _check(layout: Layout) -> None:
    whole = layout.width * layout.height * layout.samples * layout.bits // 8
    if whole > _MOST_BYTES:
        raise ImageError(f"samples of {whole / 2**20:.0f} MiB; more than {_MOST_BYTES / 2**20:.0f} MiB are not read")
    if layout.samples < layout.colours or (layout.colours == 1 and layout.samples > 2):
        raise ImageError(f"a TIFF of {layout.samples} samples a pixel; which are red, green and blue it does not say")
    if layout.colours == 4 and (layout.opacity or numbers_of(layout.tags, 332, 1)[0] != 1):
        raise ImageError("a TIFF of inks that are not only cyan, magenta, yellow and black, which can't be read")
    sizes = {"u": range(1, 65), "i": (8, 16, 32, 64), "f": (16, 32, 64)}[layout.kind]
    if layout.bits not in sizes or 32 < layout.bits < 64:
        raise ImageError(f"a TIFF of {layout.bits}-bit samples, which can't be read")
    predictor = numbers_of(layout.tags, 317, 1)[0]
    if predictor not in (1, 2, 3) or (predictor > 1 and layout.bits % 8) or (predictor == 3) > (layout.kind == "f"):
        raise ImageError(f"a TIFF whose predictor ({predictor}) does not fit its samples")


def _declared(layout: Layout) -> int:
    """How many bits MaxSampleValue or SMaxSampleValue say are used; 0 where they name no power of two."""
    for tag in (341, 281):
        try:
            largest = max(numbers_of(layout.tags, tag, 0))
        except ImageError:
            continue
        if largest > 0 and (largest + 1).bit_count() == 1:
            return largest.bit_length()
    return 0 if layout.bits in (16, 32, 64) else layout.bits


@dataclass(frozen=True)
class _Pieces:
    """The strips or tiles of a plane.

    Attributes:
        offsets: where each begins. counts: how many bytes it has.
        height: rows of each, the last strip may have fewer. width: pixels of each. across: how many make a row.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    height: int
    width: int
    across: int


def _pieces(layout: Layout, plane: int) -> _Pieces:
    tiled = 322 in layout.tags
    tags = (324, 325) if tiled else (273, 279)
    offsets, counts = (numbers_of(layout.tags, tag, None) for tag in tags)
    width = numbers_of(layout.tags, 322, layout.width)[0] if tiled else layout.width
    height = numbers_of(layout.tags, 323 if tiled else 278, layout.height)[0]
    height = height if tiled else min(height, layout.height)
    if min(width, height) < 1 or width * height > 4 * max(layout.width * layout.height, 2**20):
        raise ImageError(f"a TIFF in pieces of {width} x {height} pixels")
    across, down = -(-layout.width // width), -(-layout.height // height)
    many = across * down
    if len(offsets) < many * (plane + 1) or len(offsets) != len(counts):
        raise ImageError("image file is truncated: pieces of the TIFF are missing")
    chosen = slice(many * plane, many * (plane + 1))
    return _Pieces(offsets[chosen], counts[chosen], height, width, across)


def _plane(data: bytes, layout: Layout, plane: int) -> npt.NDArray[Any]:
    """The samples of a plane, H × W × as many as it holds."""
    pieces, samples = _pieces(layout, plane), 1 if layout.planar else layout.samples
    row_bytes = -(-pieces.width * samples * layout.bits // 8)
    rows = max(1, _GROUP_BYTES // (row_bytes * pieces.across * pieces.height))
    wanted = 1 if layout.planar else layout.colours + bool(layout.opacity)
    out: list[npt.NDArray[Any]] = []
    for first in range(0, len(pieces.offsets) // pieces.across, rows):
        group = slice(first * pieces.across, (first + rows) * pieces.across)
        high = min(rows * pieces.height, layout.height - first * pieces.height)
        stored = [_piece(data, *place) for place in zip(pieces.offsets[group], pieces.counts[group])]
        packed = _unpack(stored, layout, pieces, row_bytes, high)
        out.append(_values(packed, layout, pieces.width, samples)[:high, : layout.width, :wanted])
    return np.concatenate(out)


def _piece(data: bytes, offset: int, count: int) -> bytes:
    piece = data[offset : offset + count]
    if len(piece) < count or offset < 8:
        raise ImageError("image file is truncated: a piece of the TIFF is missing")
    return piece


def _unpack(stored: list[bytes], layout: Layout, pieces: _Pieces, row_bytes: int, high: int) -> npt.NDArray[np.uint8]:
    """Rows of bytes, high × pieces across × bytes of each, unpacked by libtiff from a TIFF made of some pieces."""
    down = -(-high // pieces.height)
    tiled = pieces.across > 1 or 322 in layout.tags
    rows = down * pieces.height if tiled else high
    fill = numbers_of(layout.tags, 266, 1)[0]
    fields = {256: row_bytes * pieces.across, 257: rows, 258: 8, 259: layout.compression, 262: 1, 266: fill, 277: 1}
    sizes = {322: row_bytes, 323: pieces.height} if tiled else {278: pieces.height}
    lengths = [len(piece) for piece in stored]
    offsets = [*accumulate(lengths[:-1], initial=8)]
    places = {324 if tiled else 273: offsets, 325 if tiled else 279: lengths}
    body = b"".join(stored)
    body += bytes(len(body) % 2)
    tags = {tag: [value] for tag, value in {**fields, **sizes}.items()} | places
    whole = b"II*\0" + (8 + len(body)).to_bytes(4, "little") + body + _directory(tags, 8 + len(body))
    with Tiff(io.BytesIO(whole)) as opened:
        opened.load()
        return np.asarray(opened).reshape(rows, pieces.across, row_bytes)


def _directory(tags: dict[int, list[int]], start: int) -> bytes:
    """The directory of a little-endian TIFF whose tags are 32-bit numbers.

    Args:
        tags: the numbers of each.
        start: where in the file it lies.
    """
    entries, lists = [], b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = np.array(numbers, "<u4").tobytes()
        entries.append(np.array([tag, 4], "<u2").tobytes() + np.array([len(numbers)], "<u4").tobytes())
        entries.append(packed if len(numbers) == 1 else (after + len(lists)).to_bytes(4, "little"))
        lists += packed if len(numbers) > 1 else b""
    return len(tags).to_bytes(2, "little") + b"".join(entries) + bytes(4) + lists


def _values(packed: npt.NDArray[np.uint8], layout: Layout, width: int, samples: int) -> npt.NDArray[Any]:
    """Samples from bytes, rows × width of the pieces together × samples."""
    rows, across, _ = packed.shape
    many = width * samples
    predictor = numbers_of(layout.tags, 317, 1)[0]
    if layout.bits not in (8, 16, 32, 64):
        values = _bit_fields(packed, layout.bits, many)
    elif predictor == 3:
        values = _float_differences(packed, layout.bits // 8, samples)
    else:
        order = ">" if layout.tags.prefix == b"MM" else "<"
        kind = "u" if predictor == 2 else layout.kind
        stored = np.ascontiguousarray(packed[..., : many * layout.bits // 8]).view(f"{order}{kind}{layout.bits // 8}")
        values = stored.astype(stored.dtype.newbyteorder("="))
    if predictor == 2:
        steps = values.reshape(rows, across, width, samples)
        values = np.cumsum(steps, axis=2, dtype=values.dtype).view(f"{layout.kind}{layout.bits // 8}")
    return values.reshape(rows, across * width, samples)


def _bit_fields(packed: npt.NDArray[np.uint8], bits: int, many: int) -> npt.NDArray[np.uint32]:
    """Unsigned numbers of so many bits each, one after another, beginning anew in each row."""
    flat = np.unpackbits(packed, axis=2, count=many * bits)
    fields = flat.reshape(*packed.shape[:2], many, bits)
    values = np.zeros(fields.shape[:3], np.uint32)
    for bit in range(bits):
        values = values << np.uint32(1) | fields[..., bit]
    return values


def _float_differences(packed: npt.NDArray[np.uint8], size: int, samples: int) -> npt.NDArray[Any]:
    """Floats whose bytes were sorted by their weight and stored as differences."""
    rows, across, row_bytes = packed.shape
    summed = np.cumsum(packed.reshape(rows, across, row_bytes // samples, samples), axis=2, dtype=np.uint8)
    planes = summed.reshape(rows, across, size, row_bytes // size)
    return np.ascontiguousarray(np.moveaxis(planes, 2, 3)).view(f">f{size}").astype(f"f{size}")
