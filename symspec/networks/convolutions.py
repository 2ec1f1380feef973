r"""Convolutions and pools over the positions of a spectrum: exact, by plain matrix products.

Arrays have the shape (position, channel), with axes for stars before it. What slides over the
positions is cut into windows, which are blocks of positions side by side: few views, and no copy
where windows do not overlap. A convolution computes several neighbouring outputs from each window
by one banded matrix of its kernel's entries,

.. math:: T_{(w,c),(b,f)} = K_{k,c,f} \quad\text{where}\quad w = b s + k d,

with the stride s and the dilation d, since windows of single outputs would copy each number
kernel_size times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytensor.tensor as pt

from symspec.errors import OptionError, ShapeError
from symspec.networks.layers import Layer, multiply_last, reshape_tail
from symspec.networks.params import Params, Shape, Symbol
from symspec.networks.windows import Largest, Slide
from symspec.safety.options import Padding, as_pair, check_choice, check_count, check_padding

DataFormat = Literal["channels_last", "channels_first"]
DATA_FORMATS = ("channels_last", "channels_first")
# columns of the banded matrix: products large enough for BLAS, not many more zeros than entries
BAND_WIDTH = 128
MAX_PLACES = 10**6


class _OverPositions(Layer):
    """A layer that slides over positions; channels may come first, as in PyTorch."""

    data_format: DataFormat  # no field: each layer puts its own last

    def _out_shape(self, shape: Shape) -> Shape:
        """Shape (position, channel) of the output for an input (position, channel)."""
        raise NotImplementedError

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        """Graph of the output (position, channel) for an input (position, channel)."""
        raise NotImplementedError

    def _swap(self, shape: Shape) -> Shape:
        """Shape (position, channel) of what comes in, or back."""
        if len(shape) != 2:
            raise ShapeError(
                f"{self.kind} takes an array (position, channel) a spectrum, got one of shape"
                f" {shape}: put Reshape((n_pixels, 1)) before it, or (1, n_pixels) if channels come"
                " first."
            )
        return shape if self.data_format == "channels_last" else shape[::-1]

    def out_shape(self, *shapes: Shape) -> Shape:
        return self._swap(self._out_shape(self._swap(shapes[-1])))

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        if self.data_format == "channels_last":
            return self._build(x, params, shape)
        return self._build(x.swapaxes(-1, -2), params, shape[::-1]).swapaxes(-1, -2)


@dataclass(frozen=True, eq=False)
class Conv1D(_OverPositions):
    r"""Convolution as networks have it, a correlation.

    .. math:: z_{tf} = \sum_{kc} x_{ts+kd,c} K_{kcf} + b_f

    Parameters
    ----------
    filters : int
        Channels that come out.
    kernel_size : int
    strides, dilation : int, default 1
        s and d.
    padding : {"valid", "same", "causal"} or int or (int, int), default "valid"
        Zeros before and after: none; so many that ceil(positions / strides) come out, one more
        after than before where they are odd; (kernel_size - 1) d before; or as many as said.
    use_bias : bool, default True
    data_format : {"channels_last", "channels_first"}
        Arrays are (position, channel), as in Keras, or (channel, position), as in PyTorch. The
        kernel is (kernel_size, in, out) in both.
    groups : int, default 1
        Parts of the channels, neighbours in and out, each of which is convolved by itself. The
        kernel is (kernel_size, in / groups, out).
    """

    filters: int
    kernel_size: int
    strides: int = 1
    padding: Padding = "valid"
    dilation: int = 1
    use_bias: bool = True
    data_format: DataFormat = "channels_last"
    groups: int = 1

    def __post_init__(self) -> None:
        for name in ("filters", "kernel_size", "strides", "dilation", "groups"):
            check_count(getattr(self, name), name)
        check_padding(self.padding, ("valid", "same", "causal"))
        check_choice(self.data_format, "data_format", DATA_FORMATS)

    @property
    def _extent(self) -> int:
        """Positions from a kernel's first entry to its last."""
        return (self.kernel_size - 1) * self.dilation + 1

    def _out_shape(self, shape: Shape) -> Shape:
        return place_windows(shape[0], self._extent, self.strides, self.padding)[1], self.filters

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        n_in = self._swap(shape)[1]
        if n_in % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"groups should divide the {n_in} channels that come in and the {self.filters} that"
                f" come out, got {self.groups}."
            )
        kernel = (self.kernel_size, n_in // self.groups, self.filters)
        shapes: dict[str, Shape] = {"kernel": kernel}
        if self.use_bias:
            shapes["bias"] = (self.filters,)
        return shapes

    def n_floats(self, shape: Shape, out: Shape) -> int:
        n_in, (n, n_out) = self._swap(shape)[1], self._swap(out)
        per_window = self._outputs_per_window(n_in, n)
        return n * n_out + math.ceil(n / per_window) * self._window_size(per_window) * n_in

    def _outputs_per_window(self, n_in: int, n: int) -> int:
        """Many for few channels, one for a kernel of one entry, few for one that makes T large."""
        most = min(
            BAND_WIDTH // max(n_in, self.filters),
            4 * self._extent - 3,
            MAX_PLACES // self._extent**2,
        )
        return int(np.clip(most, 1, n))

    def _window_size(self, per_window: int) -> int:
        return (per_window - 1) * self.strides + self._extent

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        before, n = place_windows(shape[0], self._extent, self.strides, self.padding)
        per_window = self._outputs_per_window(shape[1], n)
        n_windows = math.ceil(n / per_window)
        size = self._window_size(per_window)
        windows = Slide(shape[0], before, n_windows, size, per_window * self.strides)(x)
        kernel = self._spread(params["kernel"], shape[1])
        z = multiply_last(windows, self._build_band(kernel, shape[1], per_window))
        if self.use_bias:  # while rows are long: NumPy adds short ones several times more slowly
            z = z + pt.alloc(params["bias"], per_window, self.filters).ravel()
        z = reshape_tail(z, 2, (n_windows * per_window, self.filters))
        return z if n == n_windows * per_window else z[..., :n, :]

    def _spread(self, kernel: Symbol, n_in: int) -> Symbol:
        """Kernel of all channels, with zeros from one group to another."""
        if self.groups == 1:
            return kernel
        group_in = np.arange(n_in)[:, None] // (n_in // self.groups)
        group_out = np.arange(self.filters) // (self.filters // self.groups)
        same = pt.constant((group_in == group_out).astype(kernel.dtype))
        return pt.concatenate([kernel] * self.groups, axis=1) * same

    def _build_band(self, kernel: Symbol, n_in: int, per_window: int) -> Symbol:
        """T of shape (window's positions and channels, outputs per window and filters)."""
        if per_window == self.dilation == 1:
            return kernel.reshape((self.kernel_size * n_in, self.filters))
        size = self._window_size(per_window)
        w = np.arange(size)[:, None, None]
        b = np.arange(per_window)[:, None]
        place = w == b * self.strides + np.arange(self.kernel_size) * self.dilation  # (w, b, k)
        place = pt.constant(place.reshape(-1, self.kernel_size).astype(kernel.dtype))
        T = pt.dot(place, kernel.reshape((self.kernel_size, n_in * self.filters)))
        T = T.reshape((size, per_window, n_in, self.filters)).transpose((0, 2, 1, 3))
        return T.reshape((size * n_in, per_window * self.filters))


@dataclass(frozen=True, eq=False)
class LocallyConnected1D(_OverPositions):
    r"""Convolution whose windows have a kernel each.

    .. math:: z_{tf} = \sum_{kc} x_{ts+k,c} K_{t,kc,f} + b_{tf}

    With a `kernel_size` of one position it is a dense layer of its own for each position.

    Parameters
    ----------
    filters : int
        Channels that come out.
    kernel_size : int
    strides : int, default 1
        s.
    use_bias : bool, default True
    data_format : {"channels_last", "channels_first"}
        The kernel is (window, kernel_size * in, out) and the bias (window, out) in both.
    """

    filters: int
    kernel_size: int
    strides: int = 1
    use_bias: bool = True
    data_format: DataFormat = "channels_last"

    def __post_init__(self) -> None:
        for name in ("filters", "kernel_size", "strides"):
            check_count(getattr(self, name), name)
        check_choice(self.data_format, "data_format", DATA_FORMATS)

    def _out_shape(self, shape: Shape) -> Shape:
        return place_windows(shape[0], self.kernel_size, self.strides, "valid")[1], self.filters

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        shape = self._swap(shape)
        n = self._out_shape(shape)[0]
        shapes: dict[str, Shape] = {"kernel": (n, self.kernel_size * shape[1], self.filters)}
        if self.use_bias:
            shapes["bias"] = (n, self.filters)
        return shapes

    def find_fans(self, kernel: Shape) -> tuple[int, int]:
        return kernel[-2], kernel[-1]

    def n_floats(self, shape: Shape, out: Shape) -> int:
        return math.prod(out) * (1 + self.kernel_size * self._swap(shape)[1])

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        n = self._out_shape(shape)[0]
        windows = (
            x if self.kernel_size == 1 else Slide(shape[0], 0, n, self.kernel_size, self.strides)(x)
        )
        z = pt.matmul(windows[..., None, :], params["kernel"])[..., 0, :]
        return z + params["bias"] if self.use_bias else z


@dataclass(frozen=True, eq=False)
class _Pool(_OverPositions):
    """Windows of `pool_size` positions, channel by channel."""

    pool_size: int = 2
    strides: int | None = None
    padding: Padding = "valid"
    data_format: DataFormat = "channels_last"

    def __post_init__(self) -> None:
        check_count(self.pool_size, "pool_size")
        if self.strides is None:
            self._set("strides", self.pool_size)
        check_count(self._stride, "strides")
        check_padding(self.padding, ("valid", "same"))
        if not isinstance(self.padding, str) and max(as_pair(self.padding)) >= self.pool_size:
            raise OptionError(
                f"padding should be less than pool_size {self.pool_size}, got {self.padding}."
            )
        check_choice(self.data_format, "data_format", DATA_FORMATS)

    @property
    def _stride(self) -> int:
        return self.pool_size if self.strides is None else self.strides

    def _out_shape(self, shape: Shape) -> Shape:
        return place_windows(shape[0], self.pool_size, self._stride, self.padding)[1], shape[1]

    def n_floats(self, shape: Shape, out: Shape) -> int:
        return math.prod(out) * (self.pool_size + 1)

    def _take(self, x: Symbol, shape: Shape) -> tuple[Symbol, np.ndarray]:
        """Windows (window, pool_size, channel), and which of their positions are no padding."""
        before, n = place_windows(shape[0], self.pool_size, self._stride, self.padding)
        windows = Slide(shape[0], before, n, self.pool_size, self._stride)(x)
        place = np.arange(n)[:, None] * self._stride + np.arange(self.pool_size) - before
        is_inside = (place >= 0) & (place < shape[0])
        return reshape_tail(windows, 1, (self.pool_size, shape[1])), is_inside


@dataclass(frozen=True, eq=False)
class MaxPool1D(_Pool):
    """Largest position of each window; of equal ones the first, as Keras and PyTorch have it.

    Parameters
    ----------
    pool_size : int, default 2
    strides : int, optional
        Default `pool_size`: windows side by side.
    padding : {"valid", "same"} or int or (int, int), default "valid"
        As for `Conv1D`.
    data_format : {"channels_last", "channels_first"}
    """

    @property
    def is_smooth(self) -> bool:
        return False

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        windows, is_inside = self._take(x, shape)
        if not is_inside.all():  # zeros of the padding are no candidates
            windows = windows + np.where(is_inside, 0, -np.inf)[:, :, None].astype(x.dtype)
        return Largest()(windows)


@dataclass(frozen=True, eq=False)
class AveragePool1D(_Pool):
    """Mean of the positions in each window.

    Parameters
    ----------
    pool_size, strides, padding, data_format
        As for `MaxPool1D`.
    count_padding : bool, default False
        Whether zeros of the padding count as positions, as they do in PyTorch and do not in Keras.
    """

    count_padding: bool = False

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        windows, is_inside = self._take(x, shape)
        count = (
            np.full(len(is_inside), self.pool_size) if self.count_padding else is_inside.sum(axis=1)
        )
        return pt.sum(windows, axis=-2) * (1 / count)[:, None].astype(x.dtype)


@dataclass(frozen=True, eq=False)
class GlobalAveragePool1D(_OverPositions):
    """Mean over all positions, (channel,) of (position, channel).

    Parameters
    ----------
    data_format : {"channels_last", "channels_first"}
    """

    data_format: DataFormat = "channels_last"

    def __post_init__(self) -> None:
        check_choice(self.data_format, "data_format", DATA_FORMATS)

    def out_shape(self, *shapes: Shape) -> Shape:
        return (self._swap(shapes[-1])[1],)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        weight = np.asarray(1 / self._swap(shape)[0], x.dtype)
        return pt.sum(x, axis=-2 if self.data_format == "channels_last" else -1) * weight


@dataclass(frozen=True, eq=False)
class ZeroPadding1D(_OverPositions):
    """Zeros before the first position and after the last.

    Parameters
    ----------
    padding : int or (int, int)
    data_format : {"channels_last", "channels_first"}
    """

    padding: int | tuple[int, int] = 1
    data_format: DataFormat = "channels_last"

    def __post_init__(self) -> None:
        check_padding(self.padding, ())
        check_choice(self.data_format, "data_format", DATA_FORMATS)

    def _out_shape(self, shape: Shape) -> Shape:
        return shape[0] + sum(as_pair(self.padding)), shape[1]

    def _build(self, x: Symbol, params: Params, shape: Shape) -> Symbol:
        before, after = as_pair(self.padding)
        return Slide(shape[0], before, before + shape[0] + after, 1, 1)(x)


def place_windows(length: int, size: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before the first position, and the number of windows.

    Raises
    ------
    ShapeError
        Not even one window fits.
    """
    if padding == "same":
        n = math.ceil(length / stride)
        return max((n - 1) * stride + size - length, 0) // 2, n
    before, after = (size - 1, 0) if padding == "causal" else as_pair(padding)
    n = (before + length + after - size) // stride + 1
    if n < 1:
        raise ShapeError(
            f"a window of {size} positions should fit in {before + length + after}: make it"
            " smaller."
        )
    return before, n
