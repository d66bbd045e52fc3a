"""Stores in formats that other tools read: one file a format, found by its name. The photographs are not needed.

A new format is one file here, `my_format.py` for `--format my-format`, with one function `write(export)`; see
`_export.py` for what it is handed, and README.md for how it is tested. What several formats share lies in files with an
underscore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ovlabel.errors import ConfigError, unknown
from ovlabel.files import occupied

if TYPE_CHECKING:
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
    on_image: Callable[[str], None] | None = None,
) -> int:
    """Write every annotated image of a store in a format that other tools read. The tree of folders is kept.

    Args:
        store: the store, or its path.
        folder: where to write: a folder that is empty or not there yet.
        format: a name of `format_names()`: "png", "coco-panoptic", "yolo-seg", …
        min_confidence: pixels of less confidence get no label, 0 … 1.
        by_class: the same for single classes, by name, in place of `min_confidence`.
        on_image: called with the key of every image that is written; several times by a format of several passes.

    Returns:
        How many images the store holds.

    Raises:
        StoreError: there is no store, or an image in it is damaged.
        ConfigError: there is no such format or class, the folder holds something, two images would share a file, or the
            format has no place for a class' name, id or colour.

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
    from ovlabel.formats._export import Export
    from ovlabel.formats._labels import classes_of, file_names, labelled_images, thresholds
    from ovlabel.store.read import Store, open_store

    folder = Path(folder)
    if format not in format_names():
        raise ConfigError(unknown("format", format, format_names()))
    if occupied(folder):
        raise ConfigError(f"{folder} holds something already; name a folder that is empty or not there yet")
    opened = store if isinstance(store, Store) else open_store(store)
    classes = classes_of(opened)
    least = thresholds([c.name for c in classes], min_confidence, by_class or {})
    names = file_names(sorted(opened))
    folder.mkdir(parents=True, exist_ok=True)
    module = import_module(f"ovlabel.formats.{format.replace('-', '_')}")
    module.write(Export(classes, lambda: labelled_images(opened, names, least, on_image), folder))
    return len(names)
