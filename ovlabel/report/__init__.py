"""A folder of web pages about a store, which opens from the disk: no server, no network, no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovlabel.errors import ConfigError
from ovlabel.files import occupied
from ovlabel.report.columns import Columns, read_columns
from ovlabel.report.pages import MARK, write_pages
from ovlabel.report.pictures import Pictures
from ovlabel.report.truth import Measured, measure
from ovlabel.store.read import Store, check_outside, open_store, warn_of_damage


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        truth: the ground truth: a folder of masks, or COCO's JSON; None for a report without errors.
        convention: how its masks are written.
        compare: another store of the same folder with the same classes, or None.
        top: pictures are made of this many images of each queue; a later call with more adds the missing ones.
    """

    truth: Path | None = None
    convention: str = "raw"
    compare: Path | None = None
    top: int = 200


@dataclass(frozen=True)
class Made:
    """A report that was written.

    Attributes:
        page: to be opened in a browser.
        missing: key → why its photograph is not shown. A later call tries again.
    """

    page: Path
    missing: Mapping[str, str]


def make_report(
    store: str | Path | Store,
    out: str | Path,
    options: ReportOptions | None = None,
    *,
    on_image: Callable[[str], None] | None = None,
) -> Made:
    """Write a report: an overview, review queues, a gallery of every class, statistics.

    Args:
        store: the store, or its path.
        out: a folder that is new, empty, or holds an earlier report.
        options: what is shown.
        on_image: called with the key of every image of which a picture is made or found.

    Returns:
        The page to open, and which photographs could not be drawn.

    Raises:
        ConfigError: `out` holds something else, or lies in the store or among the photographs, or the other store has
            other classes.
        StoreError: a store can't be read.
        TruthError: the ground truth can't be read, or does not fit.

    Example:
        >>> import tempfile
        >>> from ovlabel.store.example import write_example
        >>> folder = write_example(tempfile.mkdtemp())
        >>> make_report(folder / "images.ovlabel.zarr", folder / "report").page.name
        'index.html'
    """
    opened, out, options = (
        store if isinstance(store, Store) else open_store(store),
        Path(out),
        options or ReportOptions(),
    )
    _check_free(out, opened)
    check_outside(opened, out)
    other = _other(opened, options.compare)
    measured = None if options.truth is None else measure(opened, options.truth, options.convention)
    warn_of_damage(opened)
    columns = read_columns(opened, other, measured)
    (out / MARK).parent.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(f"{opened.manifest.id}\n", encoding="utf-8")
    pictures = Pictures(out, opened, other, measured)
    chosen = columns.chosen(options.top)
    for index in chosen:
        pictures.make(columns.keys[index], columns.names[index])
        if on_image:
            on_image(columns.keys[index])
    pictures.drop_others({columns.names[index] for index in range(len(columns.keys))})
    return Made(write_pages(out, opened, columns, measured, other), pictures.missing)


def _check_free(out: Path, store: Store) -> None:
    """Raise ConfigError unless a folder is new, empty, or holds a report about this store."""
    if (out / MARK).is_file():
        if (out / MARK).read_text(encoding="utf-8", errors="replace").strip() != store.manifest.id:
            raise ConfigError(f"{out} holds a report about another store; pass another folder with -o")
    elif occupied(out):
        raise ConfigError(f"{out} holds something that is no report; pass another folder with -o")


def _other(store: Store, path: Path | None) -> Store | None:
    """The store to compare with. Raises ConfigError where its classes are others."""
    if path is None:
        return None
    other = open_store(path)
    if other.class_names != store.class_names:
        raise ConfigError(f"{path} has other classes than {store.path}; two stores of one vocabulary can be compared")
    return other


__all__ = ["Columns", "Made", "Measured", "ReportOptions", "make_report"]
