"""From images to cosines of the whole image, at every scale in every view.

    image at a scale ─windows.py→ windows ─encoding.py→ cosines at patches ─stitching→ CosineMaps

Stitching is done in one of three ways: all windows at once (`Mosaic`); window by window at pixels (`Canvas`), where a
stage acts at the level WINDOW; or features at patches (`GridCanvas`), with `tiling.stitch = "features"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ovlabel.errors import ConfigError, StackError
from ovlabel.ops import normalise
from ovlabel.settings.keys import TilingConfig
from ovlabel.spine.batches import Batches
from ovlabel.spine.cosine_maps import CosineMaps, Mosaic
from ovlabel.spine.encoding import WindowBatch, WindowEncoder
from ovlabel.spine.stitching import Canvas, GridCanvas
from ovlabel.spine.windows import cut, enlarge_window, padded_extent, padding_in_view, tile, undo_view, working_size
from ovlabel.types import Box

_T = TypeVar("_T")


class View(NamedTuple):
    """An image at one scale, normalised 3 × H × W, in the view of this name."""

    pixels: Tensor
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[-2], self.pixels.shape[-1]


class Views:
    """Makes cosines of whole images.

    Args:
        windows: encodes batches of windows.
        tiling: how images are cut, and the views.
        batches: how many windows at once.
        literal: enlarge every window by itself, as the published code does.

    Raises:
        StackError: a stage acts at the level WINDOW, and `tiling.enlarge = "direct"` makes no window pixels.
        ConfigError: windows under one patch without padding.
    """

    def __init__(self, windows: WindowEncoder, tiling: TilingConfig, batches: Batches, *, literal: bool) -> None:
        self._windows, self._tiling, self._batches = windows, tiling, batches
        self._stack, self._patch = windows.stack, windows.encoder.patch
        self._direct = tiling.enlarge == "direct" and tiling.window == 0
        if self._direct and self._stack.acts_at("window"):
            raise StackError('a stage acts at the level window, which needs tiling.enlarge = "two-step"')
        if 0 < tiling.window < self._patch and tiling.pad == "none":
            small = f"tiling.window = {tiling.window}: under a patch of {self._patch}"
            raise ConfigError(f'{small} it needs tiling.pad = "center"')
        by_itself = literal or self._direct or tiling.stitch == "features" or self._stack.acts_at("window")
        self._at_once = not by_itself

    def cosines(self, images: Sequence[Sequence[Tensor]]) -> list[Iterator[CosineMaps]]:
        """Cosines of every image at every scale in every view, scales first.

        Windows of one shape and view share batches, also those of different images.

        Args:
            images: of each image, normalised 3 × H × W at every scale.
        """
        views = [[View(pixels, name) for pixels in scales for name in self._tiling.views] for scales in images]
        if not self._at_once:
            return [map(self._one, of_image) for of_image in views]
        mosaics = iter(self._mosaics([view for of_image in views for view in of_image]))
        return [iter([next(mosaics) for _ in of_image]) for of_image in views]

    def features(self, view: View, boxes: tuple[Box, ...]) -> Iterator[WindowBatch]:
        """Features of windows of an image in a view, a batch at a time; not yet edited at the level FEATURES."""
        for batch in self._batches.split(boxes):
            yield self._windows.features(cut(view.pixels, tuple(batch)), tuple(batch), view.name)

    @property
    def usual_windows(self) -> int:
        """How many windows an image of 480 × 640 pixels is cut into."""
        tiling = self._tiling
        size = working_size((480, 640), tiling.short_side, tiling.long_side, self._patch)
        return len(tile(size, tiling.window, tiling.stride))

    def _boxes(self, view: View) -> tuple[Box, ...]:
        return tile(view.size, self._tiling.window, self._tiling.stride)

    def _one(self, view: View) -> CosineMaps:
        """Cosines of one image at one scale in one view, by itself."""
        if self._tiling.stitch == "features":
            return CosineMaps(self._from_stitched_features(view))
        batches = (self._windows.similarity(batch) for batch in self.features(view, self._boxes(view)))
        if self._direct:
            return CosineMaps(undo_view(next(batches).maps[0], view.name))
        return CosineMaps(self._from_windows(view, batches))

    def _from_windows(self, view: View, batches: Iterator[WindowBatch]) -> Tensor:
        """q × H × W: windows enlarged one by one, edited at WINDOW, and averaged."""
        canvas: Canvas | None = None
        for batch in batches:
            for maps, box in self._enlarged(batch):
                canvas = canvas or Canvas(len(maps), view.size, maps)
                canvas.add(undo_view(maps, view.name), box)
        return _filled(canvas).mean()

    def _from_stitched_features(self, view: View) -> Tensor:
        """q × H × W: unit features averaged on one patch grid, then taken to cosines as those of one large window."""
        canvas: GridCanvas | None = None
        for batch in self.features(view, self._boxes(view)):
            canvas = canvas or GridCanvas(batch.maps.shape[1], view.size, self._patch, batch.maps)
            padding = padding_in_view(batch.context.padding, view.name)
            for one, box in zip(batch.maps, batch.context.boxes, strict=True):
                canvas.add(normalise(undo_view(one, view.name), 0), box, padded_extent(box, padding))
        whole = self._windows.stitched(_filled(canvas).mean(), view.pixels)
        maps, _ = next(self._enlarged(self._windows.similarity(whole)))
        return maps

    def _enlarged(self, batch: WindowBatch) -> Iterator[tuple[Tensor, Box]]:
        """Each window's q × H × W cosines at its pixels; one by one where no stage edits the batch at WINDOW."""
        context = batch.context
        size = (context.pixels.shape[-2], context.pixels.shape[-1])
        if self._stack.acts_at("window"):
            maps = enlarge_window(batch.maps, context.boxes[0], context.padding, size)
            yield from zip(self._stack.edit("window", maps, context), context.boxes, strict=True)
            return
        for one, box in zip(batch.maps, context.boxes, strict=True):
            yield enlarge_window(one[None], box, context.padding, size)[0], box

    def _mosaics(self, views: Sequence[View]) -> list[Mosaic]:
        """The patch maps of all windows of every view, side by side; windows of one shape and view share batches."""
        boxes = [self._boxes(view) for view in views]
        alike: dict[tuple[str, int, int], list[tuple[int, Box]]] = {}
        for number, view in enumerate(views):
            for box in boxes[number]:
                alike.setdefault((view.name, box.height, box.width), []).append((number, box))
        made: dict[int, Mosaic] = {}
        for windows in alike.values():
            for batch in self._batches.split(windows):
                encoded = self._shared(views, batch)
                for maps, (number, box) in zip(encoded.maps, batch, strict=True):
                    if number not in made:
                        made[number] = _mosaic(views[number], boxes[number], encoded)
                    made[number].put(undo_view(maps, views[number].name), box)
        return [made[number] for number in range(len(views))]

    def _shared(self, views: Sequence[View], windows: Sequence[tuple[int, Box]]) -> WindowBatch:
        """Cosines of one batch of windows, each given as the number of its view and its place."""
        pixels = torch.cat([cut(views[number].pixels, (box,)) for number, box in windows])
        name = views[windows[0][0]].name
        return self._windows.similarity(self._windows.features(pixels, tuple(box for _, box in windows), name))


def _mosaic(view: View, boxes: tuple[Box, ...], encoded: WindowBatch) -> Mosaic:
    """An empty mosaic of a view's windows, padded as those of a batch."""
    padding, padded = padding_in_view(encoded.context.padding, view.name), encoded.context.pixels.shape[-2:]
    return Mosaic(view.size, boxes, padding, (padded[0], padded[1]))


def _filled(canvas: _T | None) -> _T:
    if canvas is None:
        raise RuntimeError("an image without windows")
    return canvas
