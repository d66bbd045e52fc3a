"""The nouns of ground truth: a class, a convention, and the ground truth of a folder of images.

numpy is only named in annotations here, so that a list of conventions can be shown without importing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovlabel.errors import TruthError, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORED = 65535  # in what `Truth.read` returns: the pixel does not count
OUTSIDE = 65534  # in `Truth.table`: the convention has no such value
REASON = 300  # characters of a reason in a message, at most
MOST_CLASSES = 65_534  # indices that uint16 holds beside these two


@dataclass(frozen=True)
class TruthClass:
    """A class of the ground truth.

    Attributes:
        name: the name that the dataset gives it.
        covers: names that mean it; a predicted class of such a name counts as this class.
        kind: "stuff", "thing" or "material"; "" where the dataset does not say.
        group: the supercategory; "" where there is none.
    """

    name: str
    covers: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""


@dataclass(frozen=True)
class Convention:
    """How a dataset writes its masks: one entry of the table in `table.py`.

    Attributes:
        name: what `--truth` takes.
        title: one line for people.
        reader: the file beside this one that reads it, without `.py`.
        vocabulary: the built-in vocabulary whose names and ids it has. "" stands for the classes of the store, or for
            those of the dataset's own JSON.
        ids: whether a pixel holds the class' "index" in the vocabulary or the "id" that the vocabulary gives it.
        shift: added to that index or id: 1 where the masks count from 1, −1 where they hold the id less one.
        ignored: values of pixels that do not count.
        ending: the end of the masks' names, which is taken off to find the image.
        rest: every value that stands for no class is ignored too; otherwise it is an error.
    """

    name: str
    title: str
    reader: str = "masks"
    vocabulary: str = ""
    ids: Literal["index", "id"] = "index"
    shift: int = 0
    ignored: tuple[int, ...] = ()
    ending: str = ""
    rest: bool = False


@dataclass(frozen=True)
class Truth:
    """The ground truth of a folder of images. Masks are read when they are asked for.

    Attributes:
        convention: the convention's name.
        classes: the true classes, in index order.
        files: the mask's file of every image, by the image's path without suffix.
        values: reads a mask's own values, H × W integers, given the image's name and the file.
        table: uint16, 65536 entries: the class index of every value; IGNORED where it does not count, OUTSIDE where the
            convention does not have it.
    """

    convention: str
    classes: tuple[TruthClass, ...]
    files: Mapping[str, Path]
    values: Callable[[str, Path], NDArray[Any]]
    table: NDArray[np.uint16]

    def read(self, name: str) -> NDArray[np.uint16]:
        """Read the mask of one image.

        Args:
            name: a key of `files`.

        Returns:
            uint16, H × W: class indices, IGNORED where a pixel does not count.

        Raises:
            TruthError: the file can't be read, or holds a value that the convention does not have.
        """
        path = self.files[name]
        try:
            values = self.values(name, path)
        except Exception as error:  # readers of image files raise errors of many kinds on a damaged file
            raise TruthError(f"{path} can't be read as ground truth: {_reason(error)}") from None
        if values.min(initial=0) < 0 or values.max(initial=0) > IGNORED:
            raise TruthError(f"{path} holds values beyond 0 … {IGNORED}; no convention has such ids")
        indices: NDArray[np.uint16] = self.table[values]
        outside = values[indices == OUTSIDE]
        if len(outside):
            raise TruthError(
                f"{path} holds the id {outside[0]} ({len(outside)} pixels), which '{self.convention}' does not have; "
                "is --truth the right one?"
            )
        return indices


def _reason(error: Exception) -> str:
    """The reason of an error, for a message; its type where it has none."""
    reason = error.strerror or error if isinstance(error, OSError) else error
    return short(reason, REASON) or type(error).__name__
