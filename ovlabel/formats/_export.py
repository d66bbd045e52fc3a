"""What a format is handed: the classes, the images with their labels, and the folder to write to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, printable

Mask = NDArray[np.bool_]
NO_LABEL = 65535  # a pixel without a label, in `LabelledImage.labels`


@dataclass(frozen=True)
class LabelledImage:
    """One image to export.

    Attributes:
        key: the image's path in its folder.
        name: the key without suffix.
        labels: uint16, H × W: class indices, NO_LABEL where a pixel has none.
    """

    key: str
    name: str
    labels: NDArray[np.uint16]


@dataclass(frozen=True)
class ExportClass:
    """A class to export.

    Attributes:
        name: its name.
        id: the dataset's id where every class has one of its own, else its index + 1.
        kind: "stuff", "thing" or "material"; "" where the vocabulary does not say.
        group: the supercategory; "" where there is none.
        colour: red, green, blue, 0 … 255.
    """

    name: str
    id: int
    kind: str
    group: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Export:
    """A store on its way into a format.

    Attributes:
        classes: in label order.
        images: reads the images, in the order of their keys; may be called several times.
        folder: where files are written.
    """

    classes: tuple[ExportClass, ...]
    images: Callable[[], Iterator[LabelledImage]]
    folder: Path

    def file(self, relative: str) -> Path:
        """A path within the folder, for writing; the folders on the way are made.

        Args:
            relative: the path, with `/` between its parts.

        Raises:
            ConfigError: the path leads out of the folder.
        """
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ConfigError(f"'{printable(relative)}' would be written outside {self.folder}")
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
