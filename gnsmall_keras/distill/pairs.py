"""What a Distiller makes of its `FeaturePair`s: layers and adapters."""

# Parts of a keras.Model.
# pyright: reportAttributeAccessIssue=false

from gnsmall_keras.distill.channels import channel_axis, shape_last
from gnsmall_keras.distill.features import (
    find_layer,
    make_adapter,
    output_shapes,
    units_of,
)


class Paired:
    """What `Distiller` holds of features, for the teacher that it has."""

    def _prepare_features(self, teacher):
        """Finds the layers, checks their shapes, makes the adapters."""
        frozen, pairs = self._frozen, self._pairs
        ours = [find_layer(self.student, pair.student_layer) for pair in pairs]
        theirs = []
        if teacher is not None:
            if len(teacher.models) != 1:
                raise ValueError(
                    "`features` needs one teacher, not an ensemble. Received "
                    f"{len(teacher.models)} teachers."
                )
            network = teacher.models[0]
            theirs = [find_layer(network, pair.teacher_layer) for pair in pairs]
            shapes, axes = [], []
            for model, found in ((network, theirs), (self.student, ours)):
                given = output_shapes(model, found)
                axes.append(
                    [
                        channel_axis(model, *layer_and_shape)
                        for layer_and_shape in zip(found, given, strict=True)
                    ]
                )
                shapes.append(list(map(shape_last, given, axes[-1])))
            self._adapt(list(map(make_adapter, pairs, *shapes)))
            frozen.teacher_axes, frozen.student_axes = axes
        frozen.student_layers, frozen.teacher_layers = ours, theirs

    def _adapt(self, adapters):
        """Takes adapters where there are none yet, or none that fit."""
        wanted, before = units_of(adapters), self._adapters
        if before is not None:
            if units_of(before) == wanted:
                return
            optimizer = getattr(self, "optimizer", None)
            if optimizer is not None and optimizer.built:
                raise ValueError(
                    "A teacher must fit the adapters that an optimiser trains. "
                    f"Received: features that need {wanted} units, not "
                    f"{units_of(before)}. Make a new Distiller of the student."
                )
            before.clear()  # Keras forgets them
        self._adapters = adapters
