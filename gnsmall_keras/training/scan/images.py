"""Batches of images made on the device, bit for bit those of `data.batches`."""

from typing import Any, NamedTuple

from gnsmall_keras.data.batches import IMAGES, TEACHER_LOGITS


class Shape(NamedTuple):
    """What is fixed in a program that makes batches."""

    height: int
    width: int
    classes: int
    cutout: int = 0  # pixels of a side


def make_batch(data: dict[str, Any], step: dict[str, Any], shape: Shape) -> Any:
    """Returns a batch as `TrainingBatches` has it.

    Args:
        data: on the device: "images", uint8 with their borders; "labels";
            "values" of pixels; for runs with images in common "rows", the
            places of a run's own among them; "logits" of a cached teacher.
        step: the plan of one step.
        shape: of what is made.
    """
    index = step["index"]
    places = data["rows"][index] if "rows" in data else index
    images = _pixels(data, places, step, shape)
    labels = data["labels"][places]
    if "middles" in step:
        images = _cut_out(images, step["middles"], shape)
    if "partners" in step:
        images, labels = _mix(images, labels, step, shape)
    if "logits" in data:
        logits = data["logits"][index].astype("float32")
        return {IMAGES: images, TEACHER_LOGITS: logits}, labels
    return images, labels


def _pixels(data, places, step, shape):
    import jax.numpy as jnp

    rows = jnp.arange(shape.height)[None]
    columns = jnp.arange(shape.width)[None]
    if "shifts" in step:
        shifts = step["shifts"].astype("int32")
        mirrored = step["mirrored"][:, None]
        columns = jnp.where(mirrored, shape.width - 1 - columns, columns)
        rows, columns = (
            shifts[0][:, None] + rows,
            shifts[1][:, None] + columns,
        )
    pixels = data["images"][
        places[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    channels = jnp.arange(pixels.shape[-1])
    return data["values"][pixels.astype("int32"), channels]


def _cut_out(images, middles, shape):
    """The square from `side // 2` before its middle on is zero."""
    import jax.numpy as jnp

    first = middles.astype("int32") - shape.cutout // 2

    def inside(length, start):
        place = jnp.arange(length)[None] - start[:, None]
        return (place >= 0) & (place < shape.cutout)

    rows = inside(shape.height, first[:, 0])
    columns = inside(shape.width, first[:, 1])
    hole = rows[:, :, None] & columns[:, None, :]
    return jnp.where(hole[..., None], 0.0, images)


def _mix(images, labels, step, shape):
    import jax
    import jax.numpy as jnp

    others = images[step["partners"]]
    own, rest = step["shares"]
    box = step["box"].astype("int32")
    rows, columns = (
        (jnp.arange(length) >= start) & (jnp.arange(length) < end)
        for length, (start, end) in zip(shape[:2], box, strict=True)
    )
    boxed = jnp.where(
        (rows[:, None] & columns[None])[..., None], others, images
    )
    # A choice after each product: else a compiler may round product and sum
    # at once, which NumPy does not.
    blended = step["blended"]
    images = jnp.where(blended, images * own, boxed)
    images = images + jnp.where(blended, others * rest, 0.0)
    shares = own * jax.nn.one_hot(labels, shape.classes)
    partners = jax.nn.one_hot(labels[step["partners"]], shape.classes)
    return images, shares + rest * partners
