"""A few images, and between what values each tensor is quantised by them."""

import warnings
from collections.abc import Iterator

import numpy as np

from gnsmall_keras.data.dataset import Dataset, stratified_subset
from gnsmall_keras.export.graph import Graph

_BINS = 2048
_CANDIDATES = 128  # of each end of a range
_LEVELS = 255  # steps between the ends
_LARGEST_STEP = 128  # of products, in steps of the output
_LEAST_RANGE = 1e-6
_LEAST_ENERGY = 1e-12


def calibration_split(dataset: Dataset, size: int) -> np.ndarray:
    """Returns the calibration images of a dataset's training split.

    Args:
        dataset: only its training images are used.
        size: how many images, equally many of each class; of fewer all.

    Returns:
        uint8 `(n, height, width, 3)`, n at most `size`; the same for the same
        dataset.

    Example:
        >>> gns.calibration_split(gns.load_data("digits"), 20).shape
        (20, 32, 32, 3)
    """
    return dataset.train_images[stratified_subset(dataset.train_labels, size)]


def trace(
    data: bytes, images: np.ndarray, *, reference: bool = False
) -> Iterator[list[np.ndarray | None]]:
    """Yields what every operator computes, for one image after the other.

    Args:
        data: a .tflite file with one input.
        images: raw pixels, uint8 `(n, height, width, 3)`.
        reference: whether to use the reference kernels, which are slow and
            round integers as TensorFlow Lite Micro does.

    Yields:
        A copy of each tensor's values; None for what is no operator's output.
    """
    from ai_edge_litert import interpreter

    resolver = interpreter.OpResolverType
    with warnings.catch_warnings():
        # Says that keeping all tensors takes memory; that is wanted here.
        warnings.simplefilter("ignore", UserWarning)
        engine = interpreter.Interpreter(
            model_content=data,
            experimental_op_resolver_type=resolver.BUILTIN_REF
            if reference
            else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    engine.allocate_tensors()
    (details,) = engine.get_input_details()
    network = Graph(data)
    computed = {t for op in network.operators for t in op.outputs}
    for image in images:
        pixels = image[None].astype(np.float32)
        scale, zero_point = details["quantization"]
        if scale:
            pixels = np.rint(pixels / scale) + zero_point
        engine.set_tensor(details["index"], pixels.astype(details["dtype"]))
        engine.invoke()
        yield [
            engine.get_tensor(tensor) if tensor in computed else None
            for tensor in range(len(network))
        ]


def set_ranges(network: Graph, images: np.ndarray, method: str) -> None:
    """Gives every computed tensor of a float network its range.

    Args:
        network: changed in place.
        images: calibration images, uint8 `(n, height, width, 3)`.
        method: "minmax": all values seen fit in; "mse": the range whose
            quantisation has the least squared error, as a part of each
            image's own values squared; rare values are clipped.
    """
    data = network.to_bytes()
    lows, highs = find_extremes(data, images)
    ranges = {
        # Zero is in every range: it is what padding adds.
        tensor: (
            min(float(lows[tensor].min()), 0.0),
            max(float(highs[tensor].max()), 0.0),
        )
        for tensor in lows
    }
    if method == "mse":
        ranges = _least_error(data, images, ranges)
    for tensor in network.inputs:
        ranges[tensor] = 0.0, 255.0  # int8 is then pixel - 128
    _widen(network, ranges)
    for tensor, (low, high) in ranges.items():
        network.set_range(tensor, low, high)


def _widen(network, ranges):
    """Keeps what is always zero, or nearly, from having no scale.

    XNNPACK refuses a file where a step of a kernel times a step of its input
    is 256 steps of the output. Units that no image wakes are not rare.
    """
    for operator, made in (
        (each, made) for each in network.operators for made in each.outputs
    ):
        factor = _factor(network, operator)
        if factor:  # the same integers, which rewriting makes use of
            low, high = ranges[operator.inputs[0]]
            ranges[made] = low * factor, high * factor
            continue
        low, high = ranges[made]
        least = 0.0
        if operator.is_linear:
            source, kernel = operator.inputs[:2]
            below, above = ranges[source]
            largest = np.abs(network.constant(kernel)).max()
            least = (above - below) * float(largest) / (127 * _LARGEST_STEP)
        if high - low < max(least, _LEAST_RANGE):
            ranges[made] = low, low + max(least, _LEAST_RANGE)


def _factor(network, operator):
    """The number > 0 that an operator multiplies all values by, or None."""
    if operator.kind != "MUL" or operator.activation != "NONE":
        return None
    constant = network.constant(operator.inputs[1])
    if constant is None or constant.size != 1 or constant.item() <= 0:
        return None
    return float(constant.item())


def find_extremes(
    data: bytes, images: np.ndarray
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Returns the least and the largest value of each channel.

    Returns:
        Two dicts from computed tensors to arrays `(channels,)`.
    """
    lows: dict[int, np.ndarray] = {}
    highs: dict[int, np.ndarray] = {}
    for values in trace(data, images):
        for tensor, array in enumerate(values):
            if array is None:
                continue
            rows = array.reshape(-1, array.shape[-1])
            low, high = rows.min(axis=0), rows.max(axis=0)
            lows[tensor] = np.minimum(lows.get(tensor, low), low)
            highs[tensor] = np.maximum(highs.get(tensor, high), high)
    return lows, highs


def _least_error(data, images, ranges):
    """Ranges by what each image loses of its own: all images count alike.

    A few pixels of one image in a hundred may be fifty times as large as all
    others. By plain squared error they alone would decide.
    """
    counts = {tensor: np.zeros(_BINS) for tensor in ranges}
    for values in trace(data, images):
        for tensor, (low, high) in ranges.items():
            array = values[tensor]
            # Zero has no error: every range has a step for it.
            array = array[array != 0].astype(np.float64)
            found = np.histogram(array, _BINS, (low, high))[0]
            counts[tensor] += found / max(np.sum(array**2), _LEAST_ENERGY)
    return {
        tensor: clip_range(counts[tensor], *ends)
        for tensor, ends in ranges.items()
    }


def clip_range(
    counts: np.ndarray, low: float, high: float
) -> tuple[float, float]:
    """Returns the range with the least squared error of quantisation.

    Values outside are moved to its ends; those inside are rounded to steps,
    which costs a twelfth of the step's square each.

    Args:
        counts: a histogram of bins of one width; may be weighted.
        low: where the first bin begins.
        high: where the last bin ends.
    """
    if not counts.sum() or low >= high:
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    centers = (edges[:-1] + edges[1:]) / 2
    # Closer to each other near zero: what is common may be all there.
    parts = np.linspace(0.0, 1.0, _CANDIDATES + 1)[1:] ** 2
    lows = low * parts[::-1] if low else np.zeros(1)
    highs = high * parts if high else np.zeros(1)
    below = [
        (counts * np.clip(end - centers, 0, None) ** 2).sum() for end in lows
    ]
    above = [
        (counts * np.clip(centers - end, 0, None) ** 2).sum() for end in highs
    ]
    inside = np.cumsum(counts)
    first = np.searchsorted(centers, lows)
    last = np.searchsorted(centers, highs)
    inside = np.append(0.0, inside)
    within = inside[last][None] - inside[first][:, None]
    steps = (highs[None] - lows[:, None]) / _LEVELS
    errors = np.add.outer(below, above) + within * steps**2 / 12
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return float(lows[row]), float(highs[column])
