"""Whisper's encoder: two convolutions over a log-mel spectrogram, then a transformer (arXiv:2212.04356)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from mmjax.models.encoders import Encoded
from mmjax.models.modality_encoders import ModalityTower, windows_with_valid, zero_invalid
from mmjax.nn import modality_embed
from mmjax.nn.layers import add_parameter
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.positions import side_by_side_sinusoids

_WINDOW, _STRIDE = 3, 2  # of a convolution in frames; of the second one, the first has stride 1


class WhisperEncoder(ModalityTower, kw_only=True):
    """Whisper's encoder. A token stands for two frames.

    Keys have no bias. The position table holds sines and cosines, and gets no gradient: it stays as it is read or made.
    A learned token, which Whisper does not have, has no position.

    Parameters: `conv1`, `conv2` (kernel [3, C, D], bias [D]), `position_embedding` [ceil(frames / 2), D],
    `transformer`, `norm`.

    What is not listed is as in `ModalityTower`.

    Attributes:
      frames, mel_bins: of the longest spectrogram. A shorter one uses the first positions; Whisper itself always reads
        3000 frames, thirty seconds, the end of which may be silence.
    """

    norm_eps: float = 1e-5
    class_token: bool = False
    frames: int
    mel_bins: int

    @nn.compact
    def __call__(
        self,
        spectrogram: Float[Array, "B T F"],
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes normalised log-mel frames, of which `valid` are real.

        Args:
          spectrogram: as Whisper's feature extractor makes them, with time first.
          valid: which frames are real; None when all are, as Whisper has it, silence too. Others count as beyond the
            spectrogram's end: they are zeros for both convolutions, and tokens that see them alone are not attended to.
          keys: one an example, for dropout.
          intermediates: whether to return each layer's output.
          pool_kind: of the pool that reads the result; all tokens are returned.

        Raises:
          ValueError: more frames than `frames`, or another number of bins.
        """
        del pool_kind
        frames, bins = spectrogram.shape[1:]
        if frames > self.frames or bins != self.mel_bins:
            raise ValueError(f"a spectrogram of {frames} frames x {bins} bins for {self.frames} x {self.mel_bins}")
        x = self._convolve("conv1", zero_invalid(spectrogram, valid), 1)
        x = self._convolve("conv2", zero_invalid(x, valid), _STRIDE)
        shape = (-(-self.frames // _STRIDE), self.width)
        table = self.param("position_embedding", lambda key: jnp.asarray(side_by_side_sinusoids(*shape)))
        x = add_parameter(x, jax.lax.stop_gradient(table[: x.shape[1]]))
        if valid is not None:
            valid = windows_with_valid(jnp.pad(valid, ((0, 0), (1, 1))), _WINDOW, _STRIDE)
        return self.encode(x, valid, keys, intermediates=intermediates, key_bias=False)

    def _convolve(self, name: str, x: Float[Array, "B T C"], stride: int) -> Float[Array, "B t D"]:
        """A convolution of 3 frames over frames with one of zeros on both sides, and a GELU."""
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        embed = modality_embed.WindowEmbed(self.width, (_WINDOW,), (stride,), self.dtype, name=name)
        return ACTIVATIONS["gelu"](embed(x))
