"""What all figures have in common; matplotlib is loaded when one is drawn."""

import io
import math
import textwrap
from typing import Any, NamedTuple

from gnsmall_keras.report.estimates import Estimate

# Okabe and Ito's, without the yellow, which is too pale for lines on white, and
# the black, which is the paper's here.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)
MARKERS = "osD^vP"
MOST_SERIES = len(COLOURS)  # in one figure; the tables have all
SHOWN_WIDTH = 600  # pixels at most, on the page and in a notebook
GREY = "#666666"
BLACK = "#000000"
_COLOURS = 128  # of a notebook's picture
_WIDTH = 4.4  # inches: on a phone, text of 8 points is 8 pixels high
STYLE = {
    "font.size": 9,
    "legend.fontsize": 7.5,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "gnsmall",  # the same records give the same file
    "text.parse_math": False,  # a "$" in a record's text is a "$"
}


class Drawing(NamedTuple):
    """A figure with its words."""

    name: str  # of the file
    title: str
    alt: str
    caption: str
    figure: Any

    def _repr_png_(self):
        """How a notebook shows it: sharp, as wide as on the page, and small."""
        from PIL import Image

        image = Image.open(io.BytesIO(render(self, "png"))).convert("RGB")
        small = io.BytesIO()
        # Lines and text need no more colours; photographs keep theirs well.
        # An octree keeps colours that few pixels have.
        octree = Image.Quantize.FASTOCTREE
        image.quantize(_COLOURS, octree).save(small, "png", optimize=True)
        return small.getvalue(), {"width": SHOWN_WIDTH}


class Point(NamedTuple):
    """An estimate at a place, and what to write beside it."""

    x: float
    estimate: Estimate
    label: str = ""


def render(drawing: Drawing, form: str) -> bytes:
    """Returns the figure as "svg" or "png"."""
    buffer = io.BytesIO()
    matplotlib = load_matplotlib()
    told = dict.fromkeys(("Date", "Format", "Type"))
    # Another version may draw the same records with other bytes.
    told["Creator"] = f"Matplotlib v{matplotlib.__version__}"
    with matplotlib.rc_context(STYLE):
        drawing.figure.savefig(
            buffer,
            format=form,
            dpi=160,
            metadata=told if form == "svg" else None,
        )
    return buffer.getvalue()


def load_matplotlib():
    """Returns the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ValueError(
            "Figures need matplotlib, which is not installed. Install the "
            "extra: pip install 'gnsmall-keras[report]'."
        ) from None
    return matplotlib


def new_figure(height, places=(1, 1)):
    """Returns a figure of a height in inches, and its axes, or an array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # which can tell how long a text is
    return figure, figure.subplots(*places)


def add_legend(figure, axes, height=3.2):
    """Puts the legend below, as long as its labels are."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [textwrap.fill(label, 64) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(height + 0.15 * lines)
    figure.legend(handles, labels, loc="outside lower left", frameon=False)


def plot_series(axes, points, index, label, *, hollow=False, line="-"):
    """One series; bars are a sample standard deviation over seeds."""
    colour = COLOURS[index % len(COLOURS)]
    points = sorted(points)
    axes.errorbar(
        [point.x for point in points],
        [point.estimate.mean for point in points],
        yerr=[point.estimate.deviation or math.nan for point in points],
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markerfacecolor="white" if hollow else colour,
        linestyle=line,
        markersize=5,
        capsize=3,
        linewidth=1.2,
        label=f"{label} ({_seeds(points)})",
    )


def _seeds(points):
    numbers = sorted({point.estimate.n for point in points})
    text = " to ".join(str(n) for n in sorted({numbers[0], numbers[-1]}))
    return f"n={text}"


def spread_accuracies(axes):
    """Spaces accuracies by the logarithm of the error: the best ones apart.

    So networks of 92 and 94 % differ visibly beside a run of one epoch.
    """
    axes.set_yscale("function", functions=(_to_scale, _from_scale))
    axes.set_ylabel("test accuracy (%), logarithm of the error")
    low, high = axes.get_ylim()
    ticks = (*range(0, 80, 20), 70, 80, 85, 88, *range(90, 101))
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])


def _to_scale(accuracy):
    import numpy as np

    return -np.log(np.maximum(101 - np.asarray(accuracy), 0.1))


def _from_scale(scaled):
    import numpy as np

    return 101 - np.exp(-np.clip(np.asarray(scaled), -9, 9))


def tick_sizes(axes):
    """Ticks that people read, such as 300 k and 1 M."""
    low, high = axes.get_xlim()
    axes.minorticks_off()
    steps = (1, 3) if high > 50 * low else (1, 2, 5)
    if high < 5 * low:
        steps = range(1, 10)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), 12)
        for step in steps
    ]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])


def _short(number):
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def setting_name(protocol, epochs):
    """What accuracies that may be compared have in common, for people."""
    return f"{protocol} protocol, {epochs} epochs"


def list_groups(groups):
    """What a few groups are, for those who cannot see them."""
    return "; ".join(group.name for group in groups)


def left_out(found, most, what):
    """A sentence on what is not drawn, if anything is not."""
    if found <= most:
        return ""
    return f" Of {found} {what} {most} are drawn; the tables have all."
