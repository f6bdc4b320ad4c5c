"""Names beside points, placed where nothing else is written."""

import math

# In points from the marker, near ones first.
_OFFSETS = [(5, 0), (-5, 0)] + [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in range(8, 80, 8)
    for angle in [math.pi * (0.5 + turn / 8) for turn in range(16)]
]


def place_labels(figure, axes, labelled, *, background="white", size=6.5):
    """Writes names beside their points, where nothing is written yet."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # which lays the axes out
    renderer = figure.canvas.get_renderer()
    frame, taken = axes.get_window_extent(renderer).extents, []
    for x, y, _, _ in labelled:
        left, bottom = axes.transData.transform((x, y))
        taken.append((left - 4, bottom - 4, left + 4, bottom + 4))
    for x, y, name, colour in labelled:
        for right, up in _OFFSETS if name else ():
            text = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                ha="left" if right > 1 else "right" if right < -1 else "center",
                va="center",
                fontsize=size,
                color=colour,
                bbox={"facecolor": background, "alpha": 0.7, "pad": 0, "lw": 0},
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colour}
                if math.hypot(right, up) > 9
                else None,
            )
            # Of the words alone: the line to the point may cross others.
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).extents
            if _fits(box, frame, taken):
                taken.append(box)
                break
            text.remove()


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
