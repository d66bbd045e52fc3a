"""The techniques: one file, one technique, one class that derives from `Stage`. A stage is named after its file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ovlabel.fields import Declared
from ovlabel.types import LEVELS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ovlabel.types import ImageContext, WindowContext

Pairs = tuple[tuple["Tensor", "Tensor"], ...]


@dataclass(frozen=True)
class Stage(Declared):
    """Base of all stages: one technique that edits the value of one level or of several.

    A stage is a frozen dataclass. Its fields are its settings, declared with bounds and a sentence each (see
    `ovlabel.fields`). It acts at the levels whose methods it overrides; the others are never called. A method takes the
    level's value and a context, and returns the edited value. Axes keep their meaning; the number of terms (`scores`)
    and the grid (`features`) may change. A method leaves its input alone up to the level `window`; from `logits` on,
    where maps are largest, it may change it in place. It keeps no reference to what it returns.

    Letters in shapes: b windows in a batch, n = 1 + h·w tokens with [CLS] first, h × w the patch grid, t terms,
    e the joint embedding, q queries, c classes, H × W pixels. All values are float tensors unless said otherwise.

    Attributes:
        replaces: levels whose incoming value the stage ignores. A stack in which an earlier edit would be lost is
            refused.
        rescales: levels whose incoming value the stage multiplies. A stack in which it would scale what an earlier
            stage has added is refused.

    Example:
        >>> from dataclasses import dataclass
        >>> import ovlabel
        >>> @dataclass(frozen=True)
        ... class Clip(ovlabel.Stage):
        ...     def logits(self, logits, context):
        ...         return max(logits, 0.0)
        >>> Clip.acts_at()
        ('logits',)
        >>> Clip().logits(-0.25, None)
        0.0
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    rescales: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def acts_at(cls) -> tuple[str, ...]:
        """The levels whose methods the class overrides, in the order in which a tensor passes them."""
        own = [vars(base) for base in cls.__mro__ if issubclass(base, Stage) and base is not Stage]
        return tuple(level for level in LEVELS if any(callable(names.get(level)) for names in own))

    @classmethod
    def name(cls) -> str:
        """The stage's name in settings: the name of its file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def prefix(cls) -> str:
        """The stage's name, which stands before its keys."""
        return cls.name()

    @classmethod
    def title(cls) -> str:
        """What the stage does, in one line: the first line of its file."""
        return (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n")[0]

    # ------------------------------------------------------------------ levels of a batch of windows

    def tokens(self, tokens: Tensor, context: WindowContext) -> Tensor:
        """What enters the last block: b × n × width."""
        raise NotImplementedError

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """The last block's scores, before the softmax: t × b × heads × n × n. Terms are softmaxed apart and added."""
        raise NotImplementedError

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """The last block's attention: b × heads × n × n."""
        raise NotImplementedError

    def block(self, block: Tensor, context: WindowContext) -> Tensor:
        """What leaves the last block: b × n × width."""
        raise NotImplementedError

    def features(self, features: Tensor, context: WindowContext) -> Tensor:
        """Patches in the joint space, not normalised: b × e × h × w."""
        raise NotImplementedError

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """Cosines of patches and queries: b × q × h × w."""
        raise NotImplementedError

    def window(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """Cosines at the windows' own pixels: b × q × H × W."""
        raise NotImplementedError

    # ------------------------------------------------------------------ levels of an image

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Cosines of the whole image, before the logit scale: q × H × W."""
        raise NotImplementedError

    def probabilities(self, probabilities: Tensor, context: ImageContext) -> Tensor:
        """Probabilities of the classes: c × H × W."""
        raise NotImplementedError

    def labels(self, labels: Tensor, context: ImageContext) -> Tensor:
        """Class indices: int64, H × W."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what else a stage may offer

    def prepare(self, *, offline: bool) -> Path | None:
        """Find the stage's checkpoint when a run is built.

        Args:
            offline: open no connection.

        Returns:
            The file of the checkpoint; None if the stage has none.

        Raises:
            WeightsError: the checkpoint can't be had, or is none.
        """
        return None

    def pairs(self, context: WindowContext) -> Pairs | None:
        """The queries and keys, each b × heads × n × d, whose products are the stage's scores, one pair a term.

        With them no attention map needs to be made where no other stage asks for one. None if the scores are no such
        products.
        """
        return None

    @property
    def in_flight(self) -> int:
        """How many images the stage may work on in other processes, through `begin`; 0: it has no such processes."""
        return 0

    def begin(self, probabilities: Tensor, context: ImageContext) -> Callable[[], Tensor]:
        """Begin `probabilities` in another process.

        Returns:
            A function that waits for the result and returns it.
        """
        edited = self.probabilities(probabilities, context)
        return lambda: edited
