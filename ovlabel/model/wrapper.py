"""An encoder around another one: for code that measures or caches what an encoder does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovlabel.types import Encoder, EncoderIdentity, Trace

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class EncoderWrapper:
    """Passes every call on to another encoder; a subclass changes what it needs to. See `ovlabel.types.Encoder`.

    Args:
        encoder: the encoder that does the work.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def identity(self) -> EncoderIdentity:
        """See `TextEncoder.identity`."""
        return self._encoder.identity

    @property
    def dtype(self) -> torch.dtype:
        """See `TextEncoder.dtype`."""
        return self._encoder.dtype

    @property
    def device(self) -> torch.device:
        """See `Encoder.device`."""
        return self._encoder.device

    @property
    def precision(self) -> str:
        """See `Encoder.precision`."""
        return self._encoder.precision

    @property
    def patch(self) -> int:
        """See `Encoder.patch`."""
        return self._encoder.patch

    @property
    def layers(self) -> int:
        """See `Encoder.layers`."""
        return self._encoder.layers

    def tokenise(self, texts: list[str]) -> Tensor:
        """See `TextEncoder.tokenise`."""
        return self._encoder.tokenise(texts)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See `TextEncoder.encode_text`."""
        return self._encoder.encode_text(tokens)

    def room(self) -> int:
        """See `Encoder.room`."""
        return self._encoder.room()

    def pixels(self, image: Tensor) -> Tensor:
        """See `Encoder.pixels`."""
        return self._encoder.pixels(image)

    def trace(self, windows: Tensor) -> Trace:
        """See `Encoder.trace`."""
        return self._encoder.trace(windows)

    def readout(self, trace: Trace, attention: Tensor) -> Tensor:
        """See `Encoder.readout`."""
        return self._encoder.readout(trace, attention)

    def readout_of(self, trace: Trace, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """See `Encoder.readout_of`."""
        return self._encoder.readout_of(trace, pairs)

    def project(self, block: Tensor) -> Tensor:
        """See `Encoder.project`."""
        return self._encoder.project(block)

    def plain(self, windows: Tensor) -> Tensor:
        """See `Encoder.plain`."""
        return self._encoder.plain(windows)

    def finishing(self, last_block: str) -> Encoder:
        """See `Encoder.finishing`. What comes back is not wrapped."""
        return self._encoder.finishing(last_block)
