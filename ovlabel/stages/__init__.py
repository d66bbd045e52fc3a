"""The techniques: one file each, found by the file's name. `Stage` is what every one of them is.

What serves one technique alone lies beside it, with a leading underscore.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ovlabel.fields import check
from ovlabel.types import LEVELS, ImageContext, WindowContext

if TYPE_CHECKING:
    from torch import Tensor


class Stage:
    """One technique: a frozen dataclass with a method for each level at which it acts.

    A method takes the level's value and a context, and returns the edited value. Axes keep their meaning; the number of
    terms at `scores` and the grid at `features` may change. Up to the level `window` a method leaves its input alone;
    from `logits` on, where maps are the largest tensors there are, it may change it in place. It keeps no reference to
    what it returns. A window never influences another one of its batch.

    Letters in shapes: b windows in a batch, n = 1 + h·w tokens with [CLS] first, h × w patches, H × W pixels,
    q queries, c classes, e dimensions of the joint embedding, t terms of the scores.

    Fields are declared with bounds and a sentence each (`ovlabel.fields`); they are the keys of the stage's table in
    the settings.

    Attributes:
        replaces: levels at which the incoming value is ignored. An earlier stage's edit there would be lost, so such a
            stack is refused.
        rescales: levels at which everything that is there is multiplied. What an earlier stage has added there would be
            multiplied too, so such a stack is refused.
        elsewhere: whether `begin` hands the work at `probabilities` to another process.

    Example:
        >>> from ovlabel.stages.neighbours import Neighbours
        >>> Neighbours(sigma=3.0).acts_at(), Neighbours().name()
        (('scores',), 'neighbours')
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    rescales: ClassVar[frozenset[str]] = frozenset()
    elsewhere: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, self.name())

    @classmethod
    def name(cls) -> str:
        """The name in settings: that of the stage's file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def acts_at(cls) -> tuple[str, ...]:
        """The levels for which the class has a method of its own, in the order in which a tensor passes them."""
        return tuple(level for level in LEVELS if getattr(cls, level) is not getattr(Stage, level))

    def edit(self, level: str, value: Any, context: Any) -> Any:
        """The value of a level after this stage's method of that name."""
        return getattr(self, level)(value, context)

    # ------------------------------------------------------------------ levels, in the order of the tensor

    def tokens(self, tokens: Tensor, context: WindowContext) -> Tensor:
        """b × n × width, what enters the last block, before its queries, keys and values are computed."""
        return tokens

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """t × b × heads × n × n, before the softmax; terms are softmaxed apart, then summed. May hold −∞."""
        return scores

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b × heads × n × n, after the softmax and the sum over terms."""
        return attention

    def block(self, block: Tensor, context: WindowContext) -> Tensor:
        """b × n × width, what the last block gives, before `ln_post`."""
        return block

    def features(self, features: Tensor, context: WindowContext) -> Tensor:
        """b × e × h × w, patches in the joint space of image and text, not normalised."""
        return features

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b × q × h × w, cosines of patches and queries."""
        return cosines

    def window(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b × q × H × W, cosines at the window's pixels, before windows are stitched."""
        return cosines

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q × H × W, cosines of the whole image."""
        return logits

    def probabilities(self, probabilities: Tensor, context: ImageContext) -> Tensor:
        """c × H × W, 0 to 1."""
        return probabilities

    def labels(self, labels: Tensor, context: ImageContext) -> Tensor:
        """int64, H × W, class indices at image size."""
        return labels

    # ------------------------------------------------------------------ where they are of use

    def prepare(self, *, offline: bool) -> Path | None:
        """Find the stage's checkpoint when a run is built, and return its file; None for a stage without one.

        Args:
            offline: open no connection.

        Raises:
            WeightsError: the checkpoint can't be had.
        """
        return None

    def pairs(self, context: WindowContext) -> tuple[tuple[Tensor, Tensor], ...] | None:
        """The queries and keys whose scores `scores` returns, term by term, each b × heads × n × d; None if unknown.

        With them the block is computed without a map of the attention, where no other stage edits one.
        """
        return None

    def begin(self, probabilities: Tensor, context: ImageContext) -> Callable[[], Tensor]:
        """`probabilities`, as far as nothing is waited for; the call that is returned waits and gives the result."""
        edited = self.probabilities(probabilities, context)
        return lambda: edited

    @property
    def behind(self) -> int:
        """How many images may be begun before the first of them is finished; 0 where that gains nothing."""
        return 0
