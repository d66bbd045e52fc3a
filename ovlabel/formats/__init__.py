"""Stores in formats that other tools read: one file a format, found by its name. The photographs are not needed.

A new format is one file here, `my_format.py` for `--format my-format`, with one function `write(export)`; see
`_export.py` for what it is handed, and README.md for how it is tested. What several formats share lies in files with an
underscore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ovlabel.errors import ConfigError, short, unknown

if TYPE_CHECKING:
    from ovlabel.formats._export import LabelledImage
    from ovlabel.store.read import Store


def format_names() -> list[str]:
    """The formats, by the files beside this one."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def export(
    store: str | Path | Store,
    folder: str | Path,
    format: str = "png",  # noqa: A002 - the name that users know
    *,
    min_confidence: float = 0.0,
    by_class: Mapping[str, float] | None = None,
    ids_from: str | Path | None = None,
    image_url: str = "",
    on_image: Callable[[str], None] | None = None,
) -> int:
    """Write every annotated image of a store in a format that other tools read. The tree of folders is kept.

    Args:
        store: the store, or its path.
        folder: where to write: a folder that is empty or not there yet. It is written whole or not at all.
        format: a name of `format_names()`: "png", "coco-panoptic", "yolo-seg", …
        min_confidence: pixels of less confidence get no label, 0 … 1.
        by_class: the same for single classes, by name, in place of `min_confidence`.
        ids_from: of the COCO formats: a COCO JSON, by whose `images` images of the same file names get their ids.
        image_url: of "label-studio": what stands before the keys in the addresses of photographs, such as
            "https://host/photographs/"; "": they are files on this machine.
        on_image: called with the key of every image that is written; several times by a format of several passes.

    Returns:
        How many images the store holds.

    Raises:
        StoreError: there is no store, or an image in it is damaged.
        ConfigError: there is no such format or class, the folder holds something or can't be written, two images would
            share a file, the format has no place for a name of an image, or for a class' name, id or colour, or it
            takes no such option.

    Example:
        >>> import tempfile
        >>> import ovlabel
        >>> from ovlabel.store.example import write_example
        >>> folder = write_example(tempfile.mkdtemp())  # two annotated images of four pixels
        >>> ovlabel.export(folder / "images.ovlabel.zarr", folder / "labels", "coco-panoptic", min_confidence=0.5)
        2
        >>> sorted(path.name for path in (folder / "labels").iterdir())
        ['panoptic', 'panoptic.json']
    """
    from ovlabel.formats._export import Export, Options, check_options
    from ovlabel.formats._labels import classes_of, labelled_images, thresholds
    from ovlabel.formats._names import checked_names
    from ovlabel.formats._staging import check_free, staged
    from ovlabel.store.read import Store, check_outside, open_store, warn_of_damage

    folder = Path(folder)
    if format not in format_names():
        raise ConfigError(unknown("format", format, format_names()))
    module = import_module(f"ovlabel.formats.{format.replace('-', '_')}")
    options = Options(Path(ids_from) if ids_from is not None else None, image_url)
    check_options(format, module.RULES, options)
    check_free(folder)
    opened = store if isinstance(store, Store) else open_store(store)
    check_outside(opened, folder)
    warn_of_damage(opened)
    classes = classes_of(opened)
    least = thresholds([c.name for c in classes], min_confidence, by_class or {})
    names = checked_names(sorted(opened), module.RULES, folder)

    def images() -> Iterator[LabelledImage]:
        return labelled_images(opened, names, least, on_image)

    try:
        with staged(folder) as partial:
            module.write(Export(classes, images, partial, tuple(names), opened.folder, options))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot write to {folder}: {short(error)}; nothing is left there") from None
    return len(names)
