"""The nouns that modules hand to each other. Importing them costs neither numpy nor torch.

Letters in shapes: b windows in a batch, n = 1 + h·w tokens with [CLS] first, h × w patch grid, H × W pixels,
q queries, c classes, e joint embedding, t terms of the scores.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

from ovlabel.errors import ConfigError, unknown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

UInt8Image: TypeAlias = "npt.NDArray[np.uint8]"  # H × W × 3, RGB
LabelMap: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.uint16]"  # H × W, class indices

_UINT8_CLASSES = 254  # above so many classes, labels are uint16: two values are no class

LEVELS = (
    "tokens",
    "scores",
    "attention",
    "block",
    "features",
    "similarity",
    "window",
    "logits",
    "probabilities",
    "labels",
)


@dataclass(frozen=True, eq=False)
class TextBank:
    """What is asked of the features: one unit vector a query.

    Attributes:
        embeddings: float32, q × e; rows are scaled to unit length.
        class_of: int64, q; the class of every query, 0 to c − 1. Every class has a query.
        classes: c names.
        kinds: "stuff", "thing" or "material" for each of c classes.
        groups: the supercategory of each class, or None.
        thresholds: float32, c; the least probability of each class, 0 to 1, or None.
        background: index of the background class, or None.
        merge: how synonyms become one class: "max" of their probabilities (SCLIP), "mean" of their embeddings, or
            "logsumexp" of their logits less the log of their number.

    Raises:
        ConfigError: shapes that do not fit, a class without a query.

    Example:
        >>> import numpy as np
        >>> from ovlabel import TextBank
        >>> TextBank(np.eye(3, 8), np.array([0, 0, 1]), ("cat", "grass"), ("thing", "stuff")).embeddings.shape
        (3, 8)
    """

    embeddings: npt.NDArray[np.float32]
    class_of: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    thresholds: npt.NDArray[np.float32] | None = None
    background: int | None = None
    merge: Literal["max", "mean", "logsumexp"] = "max"

    def __post_init__(self) -> None:
        import numpy as np

        put = object.__setattr__
        vectors = np.ascontiguousarray(self.embeddings, dtype=np.float32)
        put(self, "class_of", np.array(self.class_of))
        put(self, "classes", tuple(self.classes))
        put(self, "kinds", tuple(self.kinds))
        if self.thresholds is not None:
            put(self, "thresholds", np.array(self.thresholds, dtype=np.float32))
        count = len(self.classes)
        if vectors.ndim != 2 or self.class_of.shape != (len(vectors),) or self.class_of.dtype.kind not in "iu":
            raise ConfigError(
                f"a text bank needs embeddings (q, e) and integers class_of (q,), "
                f"not {vectors.shape} and {self.class_of.dtype} {self.class_of.shape}"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not count or not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise ConfigError("a text bank needs a class or more, and embeddings that are finite and not zero")
        put(self, "embeddings", vectors / lengths)
        put(self, "class_of", self.class_of.astype(np.int64))
        for name in ("groups", "thresholds"):
            if (value := getattr(self, name)) is not None and len(value) != count:
                raise ConfigError(f"a text bank of {count} classes can't have {len(value)} {name}")
        if self.merge not in ("max", "mean", "logsumexp"):
            raise ConfigError(f"text bank: {unknown('merge', str(self.merge), ('max', 'mean', 'logsumexp'))}")
        if sorted(set(self.class_of.tolist())) != list(range(count)) or len(self.kinds) != count:
            raise ConfigError(f"a text bank of {count} classes needs a query and a kind for each of them")
        if self.background is not None and not 0 <= self.background < count:
            raise ConfigError(f"background {self.background} is not one of {count} classes")

    def merged(self) -> TextBank:
        """With merge = "mean": one unit vector a class, the mean of its queries' vectors. Else itself."""
        if self.merge != "mean":
            return self
        import numpy as np

        sums = np.zeros((len(self.classes), self.embeddings.shape[1]), np.float64)
        np.add.at(sums, self.class_of, self.embeddings)
        return TextBank(
            sums.astype(np.float32),
            np.arange(len(self.classes)),
            self.classes,
            self.kinds,
            self.groups,
            self.thresholds,
            self.background,
        )


@dataclass(frozen=True)
class Box:
    """A window's place in the working-size image, in pixels: rows top to bottom, columns left to right."""

    top: int
    left: int
    height: int
    width: int


class Trace(Protocol):
    """The layers of one batch of windows, as the encoder computed them. Layers are counted from 1 to `layers`.

    Tokens, projections and attention are asked for one by one, so that none is computed that is not used.

    Attributes:
        grid: (h, w), patches of a window.
        layers: how many blocks the encoder has.
    """

    grid: tuple[int, int]
    layers: int

    @property
    def unedited(self) -> Trace:
        """The trace as the encoder made it, before the level `tokens`."""

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` computes from the unedited layers, computed once: for a stage that acts at several levels."""

    def tokens(self, layer: int) -> Tensor:
        """b × n × width, the tokens that enter block `layer`: the output of block `layer` − 1."""

    def qkv(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of block `layer`, each b × heads × n × d; queries are not scaled."""

    def attention(self, layer: int) -> Tensor:
        """b × heads × n × n, softmax(q kᵀ / √d) of block `layer`."""

    def attended(self, layer: int, attention: Tensor) -> Tensor:
        """b × n × width, what block `layer` adds under another attention, b × heads × n × n or b × 1 × n × n."""

    def image(self) -> Tensor:
        """b × e, the model's own image embedding, not normalised."""

    def read_regions(self, masks: Tensor) -> Tensor:
        """bool b × r × h·w → b × r × e, what a class token reads that sees only a region's patches and itself."""

    def edited(self, tokens: Tensor) -> Trace:
        """The same trace with other tokens, b × n × width, entering the last block."""


@dataclass(frozen=True)
class EncoderIdentity:
    """What a run remembers of its encoder: architecture, constants, weights.

    Attributes:
        model: the open_clip model config.
        mean: preprocessing constants, one a channel, on values in 0 … 1.
        std: the same.
        weights: sha256 of the file in hex, or "random:SEED".
    """

    model: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str


class TextEncoder(Protocol):
    """What the text bank needs of an encoder: the text tower of a frozen CLIP."""

    @property
    def identity(self) -> EncoderIdentity:
        """Architecture, constants and weights."""

    @property
    def dtype(self) -> torch.dtype:
        """What the towers compute in."""

    def tokenise(self, texts: list[str]) -> Tensor:
        """int64, len(texts) × context: the tokens of each text."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 b × context → b × e, not normalised, float32 or finer."""


class Encoder(TextEncoder, Protocol):
    """What the spine needs of an encoder: a frozen CLIP whose image tower is open before its last attention.

    `trace` runs the image tower up to the last block. `readout` (or `readout_of`) finishes the block under an attention
    that the stack decides, and `project` takes its tokens to the joint space. Whoever measures or caches an encoder
    wraps it: see `ovlabel.model.wrapper`.
    """

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def precision(self) -> str:
        """The name of `dtype` in the settings: "fp32", "bf16", "fp16" or "fp64"."""

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""

    @property
    def layers(self) -> int:
        """How many blocks the image tower has."""

    def room(self) -> int:
        """How many windows of the native size to encode at once."""

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 or float 3 × H × W, 0 … 255 → normalised 3 × H × W on the device, float32 or finer."""

    def trace(self, windows: Tensor) -> Trace:
        """The layers of normalised windows, b × 3 × H × W, up to the last block's input."""

    def readout(self, trace: Trace, attention: Tensor) -> Tensor:
        """b × heads × n × n → b × n × width: the last block's output under this attention, before `ln_post`."""

    def readout_of(self, trace: Trace, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`readout` under Σ softmax(q kᵀ / √d) over pairs of queries and keys, without making the attention maps."""

    def project(self, block: Tensor) -> Tensor:
        """b × n × width → b × n × e in the joint space, not normalised, float32 or finer."""

    def plain(self, windows: Tensor) -> Tensor:
        """b × 3 × H × W → b × e: the model's own forward pass over normalised windows, to measure against."""

    def finishing(self, last_block: str) -> Encoder:
        """The same encoder with another `encoder.last_block`."""


@dataclass(frozen=True, eq=False)
class WindowContext:
    """What a stage may read up to the level `window`. All tensors lie on the run's device.

    Attributes:
        pixels: b × 3 × H × W, normalised with the model's constants, as the encoder saw them, padding included.
        text: q × e unit vectors of the queries, float32.
        class_of: int64, q: the class of each query.
        logit_scale: the factor of cosines before the softmax.
        trace: the layers of this batch; its last layer holds the tokens as the level `tokens` left them. Under
            `tiling.stitch = "features"` a batch is one map of the whole image, which has no trace: reading its layers
            raises StackError.
        boxes: b places in the working-size image, without the padding.
        padding: zeros at the (left, right, top, bottom) of every window, in pixels. Tokens, features and maps cover
            them too, up to the level `window`.
        cls: b × e, the [CLS] token after the last block as the stack has edited it; None before the level `features`,
            and where there is no trace.
        preview: for stages that act at the level `scores`. Called with the stage's own scores, it returns cosines
            b × q × h × w: a first segmentation through the later stages at `scores` and all stages at `attention` and
            `block`, without those at `features` or later.
        rerun: for stages that act at the level `block`. Called with tokens b × n × width, it returns the last block's
            output for them under this stack's attention, before any edit at that level.
    """

    pixels: Tensor
    text: Tensor
    class_of: Tensor
    logit_scale: float
    trace: Trace
    boxes: tuple[Box, ...]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    cls: Tensor | None = None
    preview: Callable[[Tensor], Tensor] | None = None
    rerun: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class ImageContext:
    """What a stage may read from the level `logits` on.

    Attributes:
        image: uint8, H × W × 3, RGB, at image size.
        pixels: 3 × H × W, the working-size image, normalised.
        bank: what is asked: the class of each query, groups, the background.
        text: q × e, the unit vectors of the bank on the run's device.
        logit_scale: the factor of cosines before the softmax.
    """

    image: UInt8Image
    pixels: Tensor
    bank: TextBank
    text: Tensor
    logit_scale: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """The annotation of one image.

    Attributes:
        labels: class indices, H × W at image size; uint8, or uint16 above 254 classes. The largest value means not
            annotated, the next one below threshold (in a vocabulary without background).
        confidence: probability of the winning class, 0 to 1, thresholded or not; float32, H × W at image size.
        probabilities: float32, c × h × w at the size where labels were decided (`labels.finish`); with merge = "max"
            a pixel's probabilities add up to at most 1. Classes that fell to `labels.area_threshold` are 0 everywhere.
        working_size: (height, width) of the resized image, in pixels.

    Example:
        >>> import numpy as np
        >>> from ovlabel import Prediction
        >>> sure = np.full((2, 3), 0.9, np.float32)
        >>> prediction = Prediction(np.zeros((2, 3), np.uint8), sure, sure[None], (2, 3))
        >>> prediction.labels[prediction.confidence > 0.5].size
        6
    """

    labels: LabelMap
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    working_size: tuple[int, int]


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """uint8 up to 254 classes: two values are kept for "not annotated" and "below threshold"."""
    import numpy as np

    return np.uint8 if classes <= _UINT8_CLASSES else np.uint16


def not_annotated(classes: int) -> int:
    """The label of a pixel that nobody annotated: the largest value (255 or 65535)."""
    return 255 if classes <= _UINT8_CLASSES else 65535


def below_threshold(classes: int) -> int:
    """The label of a pixel below the threshold in a vocabulary without background: the largest value less one."""
    return not_annotated(classes) - 1


@dataclass(frozen=True)
class ImageItem:
    """An image to annotate: its key (path relative to the folder, `/` between parts) and where it lies."""

    key: str
    path: Path
    size: int  # bytes
    mtime_ns: int


def in_64_bits(number: int) -> int:
    """The lowest 64 bits of a whole number, as a signed one: times after 2262, in nanoseconds, take more.

    Example:
        >>> in_64_bits(-5), in_64_bits(2**64 + 7)
        (-5, 7)
    """
    return (number + 2**63) % 2**64 - 2**63


@dataclass(frozen=True, eq=False)
class ImageList(Sequence[ImageItem]):
    """Images of one folder, kept in columns: a million of them take some 100 MB. Items are made when asked for.

    Attributes:
        folder: that the keys are relative to.
        keys: of the images.
        sizes: of the files, in bytes; signed 64-bit integers.
        times: modification times, nanoseconds since 1970, as `in_64_bits` gives them.

    Example:
        >>> from pathlib import Path
        >>> images = ImageList.of(Path("in"), [("a.jpg", 10, 0), ("b/c.jpg", 20, 0)])
        >>> images[1].size, [image.key for image in images[:1]]
        (20, ['a.jpg'])
    """

    folder: Path
    keys: list[str]
    sizes: array[int]
    times: array[int]

    @classmethod
    def of(cls, folder: Path, found: Iterable[tuple[str, int, int]]) -> ImageList:
        """A list of images.

        Args:
            folder: that the keys are relative to.
            found: key, size and modification time of each.
        """
        keys, sizes, times = list[str](), array("q"), array("q")
        for key, size, mtime_ns in found:
            keys.append(key)
            sizes.append(size)
            try:
                times.append(mtime_ns)
            except OverflowError:
                times.append(in_64_bits(mtime_ns))
        return cls(folder, keys, sizes, times)

    def take(self, positions: Sequence[int]) -> ImageList:
        """The images at these positions, in their order.

        Args:
            positions: indices from 0.
        """
        return ImageList(
            self.folder,
            [self.keys[i] for i in positions],
            array("q", [self.sizes[i] for i in positions]),
            array("q", [self.times[i] for i in positions]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> ImageItem: ...

    @overload
    def __getitem__(self, place: slice) -> ImageList: ...

    def __getitem__(self, place: int | slice) -> ImageItem | ImageList:
        if isinstance(place, slice):
            return ImageList(self.folder, self.keys[place], self.sizes[place], self.times[place])
        key = self.keys[place]
        return ImageItem(key, self.folder / key, self.sizes[place], self.times[place])


@dataclass(frozen=True)
class ChunkReport:
    """What one commit covered.

    Attributes:
        done: keys of the images that were annotated.
        failed: (key, reason) of the images that failed.
        seconds: from the start of the work on the first of them to the end of the commit.

    Example:
        >>> from ovlabel import ChunkReport
        >>> ChunkReport(done=("a.jpg",), failed=(("b.jpg", "the file is empty"),), seconds=0.5).failed[0][1]
        'the file is empty'
    """

    done: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Annotation:
    """What the store keeps of a prediction: small integers only.

    Attributes:
        labels: H W at image size, as in `Prediction`.
        confidence: uint8 H W at image size, 255 × probability, rounded.
        classes: class indices k h w at working size, most probable first, or None where all classes are kept in order.
        probabilities: uint8 k h w at working size, 255 × probability, rounded; None where none are kept.
        working_size: (height, width) of the resized image, pixels.
        reduced: whether labels were decided on fewer pixels than asked (`labels.max_finish_pixels`).
    """

    labels: LabelMap
    confidence: npt.NDArray[np.uint8]
    classes: LabelMap | None
    probabilities: npt.NDArray[np.uint8] | None
    working_size: tuple[int, int]
    reduced: bool = False
