"""The engine on PyTorch's tensors, whose memory NumPy shares."""

import numpy as np

from gnsmall_keras.models import flat
from gnsmall_keras.native.network import NativeNetwork


class TorchNetwork(NativeNetwork):
    """On PyTorch's tensors.

    It notes them once, for Keras assigns to tensors in place, and takes long to
    say which one a variable has. Whether a tensor's memory is still the same
    is asked in each step.
    """

    def __init__(self, matched):
        super().__init__(matched)
        self._known = {}

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import torch

        images = self.as_batch(images)
        values = (
            self._shared(variables).vector()
            for variables in (self.parameters, self.statistics)
        )
        logits = self.infer_arrays(_array(images), *values)
        return torch.from_numpy(logits)

    def train_step(self, images, optimizer, loss_of):
        """Computes a training step; see `TensorFlowNetwork.train_step`.

        Like Keras's it first clears the tensors' `grad`, but leaves none.
        """
        import torch

        images = self.as_batch(images)
        statistics = self._shared(self.statistics)
        parameters = self._shared(self.parameters)
        parameters.clear_gradients()
        logits, moved, ticket = self.begin(
            _array(images), parameters.vector(), statistics.vector()
        )
        statistics.write(moved)
        logits = torch.from_numpy(logits).requires_grad_()
        (of_logits,) = torch.autograd.grad(loss_of(logits), logits)
        of_logits = of_logits.numpy()
        with torch.no_grad():
            if self.is_moved_by(optimizer):
                self._move(optimizer, ticket, of_logits)
            else:
                gradients = self.gradients(ticket, of_logits)
                gradients = list(map(torch.from_numpy, gradients))
                optimizer.apply(gradients, self.parameters)
        return logits.detach()

    def has_hooks(self) -> bool:
        """Whether PyTorch calls hooks with the gradient of a parameter."""
        return any(map(has_hooks, self._shared(self.parameters).tensors))

    def _move(self, optimizer, ticket, of_logits):
        groups = list(map(self._shared, self.moved_by(optimizer).variables))
        rate = np.float32(float(optimizer.learning_rate))
        iteration = int(optimizer.iterations.value)
        vectors = (group.vector() for group in groups)
        moved = self.end(
            optimizer, ticket, of_logits, rate, iteration, *vectors
        )
        for group, vector in zip(groups, moved, strict=True):
            group.write(vector)
        optimizer.iterations.assign_add(1)

    def _shared(self, variables):
        """Their memory; `variables` is the same list in each call."""
        known = self._known.get(id(variables))
        if known is None or known.is_elsewhere():
            known = self._known[id(variables)] = _Shared(variables)
        return known


class _Shared:
    """Variables' tensors, and arrays over their memory."""

    def __init__(self, variables):
        self._variables = variables  # so that no others have their id
        self.tensors = [variable.value for variable in variables]
        for tensor in self.tensors:
            if not tensor.is_contiguous():  # a layout for convolutions
                tensor.data = tensor.data.contiguous()
        self._addresses = self._find()
        arrays = [tensor.detach().numpy() for tensor in self.tensors]
        self._arrays = [array.reshape(-1) for array in arrays]
        shapes = [array.shape for array in self._arrays]
        self._slices = flat.slices_of(shapes, range(len(shapes)))

    def is_elsewhere(self):
        """Whether a tensor has other memory by now."""
        return self._addresses != self._find()

    def vector(self):
        """All values."""
        return np.concatenate(self._arrays)

    def write(self, vector):
        """Gives the variables values in the order of `vector`."""
        for array, part in zip(self._arrays, self._slices, strict=True):
            array[:] = vector[part]

    def clear_gradients(self):
        """Leaves no gradient of a step before."""
        for tensor in self.tensors:
            tensor.grad = None

    def _find(self):
        return [tensor.data_ptr() for tensor in self.tensors]


def has_hooks(tensor) -> bool:
    """Whether PyTorch calls hooks with a tensor's gradient."""
    return bool(
        tensor._backward_hooks
        or getattr(tensor, "_post_accumulate_grad_hooks", None)
    )


def _array(images):
    """Of a batch as it comes, before Keras has made a tensor of it."""
    import torch

    if torch.is_tensor(images):  # NumPy has not all of its types
        return images.to(torch.float32).numpy(force=True)
    return images
