"""Names beside points, placed where nothing else is written."""

import math

_RADIUS = 3  # points, of a marker
# In points from a marker of that radius, near ones first.
_OFFSETS = [(5, 0), (-5, 0)] + [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in range(8, 80, 8)
    for angle in [math.pi * (0.5 + turn / 8) for turn in range(16)]
]


def place_labels(
    figure, axes, labelled, *, background="white", size=7, radii=()
):
    """Writes names beside their points, where nothing is written yet.

    Beside lines rather than across them, if there is room.

    Args:
        figure: with its final layout.
        axes: of the points.
        labelled: x, y, name and colour of each point; "" for no name.
        background: colour behind the names.
        size: of the text, in points.
        radii: of the markers, in points; `_RADIUS` where there is none.
    """
    figure.draw_without_rendering()  # which lays the axes out
    renderer = figure.canvas.get_renderer()
    frame, taken = axes.get_window_extent(renderer).extents, []
    lines = list(_lines(axes))
    sizes = [*radii, *[_RADIUS] * (len(labelled) - len(radii))]
    for (x, y, _, _), radius in zip(labelled, sizes, strict=True):
        left, bottom = axes.transData.transform((x, y))
        pixels = radius * figure.dpi / 72
        box = left - pixels, bottom - pixels, left + pixels, bottom + pixels
        taken.append(box)
    for (x, y, name, colour), radius in zip(labelled, sizes, strict=True):
        if not name:
            continue
        text = axes.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=colour,
            bbox={"facecolor": background, "alpha": 0.7, "pad": 0, "lw": 0},
        )
        found = _find_place(
            text, radius - _RADIUS, frame, taken, lines, renderer
        )
        if found:
            taken.append(_move(text, found, renderer))
            _join(axes, text, (x, y), found, radius)
        else:
            text.remove()


def _find_place(text, further, frame, taken, lines, renderer):
    """Returns the nearest free offset in points, or None."""
    from matplotlib.transforms import Bbox

    pixels = text.get_figure().dpi / 72  # in a point
    # A text is laid out once for each alignment: that takes a millisecond.
    boxes = {side: _move(text, (side, 0), renderer) for side in (-2, 0, 2)}
    free = []
    for right, up in _OFFSETS:
        scale = 1 + further / math.hypot(right, up)
        offset = right * scale, up * scale
        side = _side(offset)
        moved = (offset[0] - side) * pixels, offset[1] * pixels
        box = boxes[side] + (*moved, *moved)
        if _fits(box, frame, taken):
            free.append(offset)
            area = Bbox.from_extents(*box)
            if not any(line.intersects_bbox(area, False) for line in lines):
                return offset
    return free[0] if free else None


def _side(offset):
    """Where a text is of its point: -2 for left, 2 for right, or 0."""
    return 2 if offset[0] > 1 else -2 if offset[0] < -1 else 0


def _move(text, offset, renderer):
    """Writes the text at an offset; returns the place of its words."""
    from matplotlib.text import Text

    text.set_position(offset)
    text.set_ha({2: "left", -2: "right", 0: "center"}[_side(offset)])
    text.update_positions(renderer)
    # Of the words alone: the line to the point may cross others.
    return Text.get_window_extent(text, renderer).extents


def _join(axes, text, point, offset, radius):
    """Draws a thin line from a point to its text, if that is far."""
    if math.hypot(*offset) <= 6 + radius:
        return
    axes.annotate(
        "",
        point,
        offset,
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "lw": 0.4,
            "color": text.get_color(),
            "shrinkA": 0,
            "shrinkB": radius,
        },
    )


def _lines(axes):
    """Yields the lines that are drawn, in pixels."""
    from matplotlib.cbook import STEP_LOOKUP_MAP
    from matplotlib.path import Path

    for line in axes.lines:
        x, y = line.get_data()
        if line.get_linestyle() != "None" and len(x) > 1:
            steps = STEP_LOOKUP_MAP[line.get_drawstyle()](x, y)
            points = list(zip(*steps, strict=True))
            yield Path(axes.transData.transform(points))


def _fits(box, frame, taken):
    inside = (
        box[0] >= frame[0]
        and box[1] >= frame[1]
        and box[2] <= frame[2]
        and box[3] <= frame[3]
    )
    return inside and not any(
        box[0] < other[2]
        and other[0] < box[2]
        and box[1] < other[3]
        and other[1] < box[3]
        for other in taken
    )
