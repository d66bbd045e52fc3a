"""The tags of TIFF files: which are needed for the pixels, and what they say of the samples."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from PIL import TiffImagePlugin

from ovlabel.errors import ImageError
from ovlabel.pictures.stripping import PROFILE_BYTES

PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO = 0
_BIG = (b"+\0", b"\0+")  # BigTIFF
_ORIENTATION, _PROFILE = 274, 34675
_NEEDED = {  # sizes, samples, compression and colours
    *(
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        277,
        278,
        279,
        281,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        338,
        339,
    ),
    *(341, 347, *range(512, 522), 529, 530, 531, 532, 50674),
}
_COLOURS = {WHITE_IS_ZERO: 1, 1: 1, 2: 3, 5: 4}  # samples that are grey, RGB or CMYK, by PhotometricInterpretation
_UNPACKED = (1, 5, 8, 32946, 32773, 34925, 50000)  # compressions of bytes: none, LZW, deflate, PackBits, LZMA, zstd
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # what the tag SampleFormat says


def strip(data: bytes) -> tuple[bytes, int, bytes]:
    """Leave out of a TIFF's first directory what its pixels do not need, and which may be damaged.

    Args:
        data: the file.

    Returns:
        A file with the same pixels; the orientation (0: none); the ICC profile (empty: none).

    Raises:
        ImageError: the directory lies outside of the file.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    big = data[2:4] in _BIG
    count, each, pointer = (8, 20, 8) if big else (2, 12, 4)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    first = number(pointer, pointer)
    many = number(first, count)
    after = first + count + many * each
    if first < 2 * pointer or after > len(data):
        raise ImageError("image file is truncated: the directory of the TIFF is missing")
    entries = [data[at : at + each] for at in range(first + count, after, each)]
    tags = [int.from_bytes(entry[:2], order) for entry in entries]
    kept = [entry for tag, entry in zip(tags, entries) if tag in _NEEDED]
    said = dict(zip(tags, entries))
    turn = int.from_bytes(said.get(_ORIENTATION, b"")[4 + pointer : 6 + pointer], order)
    length, start = (int.from_bytes(said.get(_PROFILE, b"")[at : at + pointer], order) for at in (4, 4 + pointer))
    following = data[after : after + pointer].ljust(pointer, b"\0")
    directory = b"".join([len(kept).to_bytes(count, order), *kept, following])
    whole = data[:first] + directory + data[first + len(directory) :]
    return whole, turn, data[start : start + length] if length <= PROFILE_BYTES else b""


@dataclass(frozen=True)
class Layout:
    """What the tags of a TIFF say of its samples.

    Attributes:
        tags: all of them.
        width: in pixels. height: likewise.
        photometric: the meaning of the first samples.
        kind: "u", "i" or "f".
        bits: of each sample.
        samples: how many there are of a pixel.
        extra: the meaning of the last of them: 1 and 2 are opacity.
        planar: whether they are stored in planes.
        compression: the number of the method.
        more_frames: whether further images follow.
    """

    tags: TiffImagePlugin.ImageFileDirectory_v2
    width: int
    height: int
    photometric: int
    kind: str
    bits: int
    samples: int
    extra: tuple[int, ...]
    planar: bool
    compression: int
    more_frames: bool

    @property
    def colours(self) -> int:
        """How many samples of a pixel are colours: 1 of grey, 3 of RGB, 4 of CMYK; 0 of any other kind."""
        return _COLOURS.get(self.photometric, 0)

    @property
    def opacity(self) -> int:
        """0, or 1 or 2 where the sample after the colours is opacity: 1 if the colours are multiplied by it already."""
        return self.extra[0] if self.extra and self.extra[0] in (1, 2) and self.samples > self.colours else 0

    @property
    def more_bands(self) -> bool:
        """Whether samples are left over that are neither colour nor opacity."""
        return bool(self.colours) and self.samples > self.colours + bool(self.opacity)

    @property
    def usual(self) -> bool:
        """Whether Pillow reads it, and rightly."""
        if not self.colours or self.compression not in _UNPACKED:
            return True
        alone = self.samples == self.colours and not self.extra
        with_opacity = self.colours == 3 and self.samples == 4 and self.extra in ((1,), (2,))
        one_plane = self.samples == 1 or not self.planar
        return self.kind == "u" and self.bits in (1, 2, 4, 8) and one_plane and (alone or with_opacity)


def layout_of(data: bytes) -> Layout:
    """Read the tags of a TIFF's first image.

    Args:
        data: the file, without metadata.

    Raises:
        ImageError: a tag that is needed is missing or damaged, or the samples differ in their bits or kinds.
    """
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2:4] in _BIG else 8))
    first = tags.next
    file.seek(first)
    tags.load(file)
    bits, kinds = numbers_of(tags, 258, 1), numbers_of(tags, 339, 1)
    if len(set(bits)) > 1 or len(set(kinds)) > 1:
        raise ImageError(f"a TIFF whose samples differ: {'/'.join(map(str, bits[:8]))} bits")
    if kinds[0] not in _KINDS:
        raise ImageError(f"a TIFF of complex numbers (SampleFormat {kinds[0]}), which can't be read")
    width, height, photometric, samples, planar, compression = (
        numbers_of(tags, tag, default)[0]
        for tag, default in ((256, 0), (257, 0), (262, 0), (277, len(bits)), (284, 1), (259, 1))
    )
    if min(width, height, samples) < 1:
        raise ImageError("a TIFF that does not say how large it is")
    extra = numbers_of(tags, 338, None)
    kind, more = _KINDS[kinds[0]], tags.next not in (0, first)
    return Layout(tags, width, height, photometric, kind, bits[0], samples, extra, planar == 2, compression, more)


def numbers_of(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int | None) -> tuple[int, ...]:
    """The whole numbers of a tag.

    Args:
        tags: of a TIFF.
        tag: its number.
        default: stands for a tag that is missing; None stands for no numbers.

    Raises:
        ImageError: the tag is damaged.
    """
    if tag not in tags:
        return () if default is None else (default,)
    try:
        value: Any = tags[tag]
        numbers = tuple(value) if isinstance(value, tuple | bytes) else (value,)
    except Exception as error:  # Pillow raises whatever the bytes provoke
        raise ImageError(f"a TIFF whose tag {tag} is damaged") from error
    if not numbers or not all(isinstance(number, int) for number in numbers):
        raise ImageError(f"a TIFF whose tag {tag} is damaged")
    return numbers
