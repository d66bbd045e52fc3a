"""Which way up an image is: the one entry of EXIF that counts here."""

from __future__ import annotations

from PIL import Image

TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(exif: bytes) -> object:
    """The orientation in an EXIF block, whatever state the rest of it is in.

    Args:
        exif: the block, beginning with its TIFF header; may be empty or damaged.

    Returns:
        1 to 8 where the block is right; `upright` passes over anything else.
    """
    entries = Image.Exif()
    try:
        entries.load(exif)
        return entries.get(TAG)
    except Exception:  # Pillow raises whatever the bytes provoke
        return None


def upright(image: Image.Image, turn: object) -> Image.Image:
    """An image turned as its orientation says.

    Args:
        image: as it is stored.
        turn: the orientation, 1 to 8; anything else leaves the image as it is.
    """
    how = _TURNS.get(turn) if isinstance(turn, int) else None
    return image if how is None else image.transpose(how)
