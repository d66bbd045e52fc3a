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
class Rules:
    """What a format does with the names of images. They are checked against it before anything is written.

    Attributes:
        file: the path of an image's file, from the image's name (its key without suffix); None where an image has no
            file of its own.
        others: the other files at the top of the folder.
        text: keys are written into a text, so that they must be characters.
        lines: names are the lines of a list.
        options: those of `Options` that the format takes.
    """

    file: Callable[[str], str] | None = None
    others: tuple[str, ...] = ()
    text: bool = False
    lines: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What some formats can be told.

    Attributes:
        ids_from: a COCO JSON whose ids the images of the same names get; None: none.
        image_url: what stands before the keys in the addresses of photographs; "": they are files on this machine.
    """

    ids_from: Path | None = None
    image_url: str = ""


def check_options(name: str, rules: Rules, options: Options) -> None:
    """Check that a format takes the options that were given.

    Args:
        name: of the format.
        rules: of the format.
        options: as given.

    Raises:
        ConfigError: it takes one of them not.
    """
    given = {"ids_from": options.ids_from is not None, "image_url": bool(options.image_url)}
    for option, is_given in given.items():
        if is_given and option not in rules.options:
            raise ConfigError(f"the format {name} takes no --{option.replace('_', '-')}")


@dataclass(frozen=True)
class Export:
    """A store on its way into a format.

    Attributes:
        classes: in label order.
        images: reads the images, in the order of their keys; may be called several times.
        folder: where files are written.
        keys: of the images, in order.
        photographs: the folder of the photographs; it may be gone.
        options: what the format was told.
    """

    classes: tuple[ExportClass, ...]
    images: Callable[[], Iterator[LabelledImage]]
    folder: Path
    keys: tuple[str, ...] = ()
    photographs: Path = Path()
    options: Options = Options()

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
