"""The engine on PyTorch's tensors, whose memory NumPy shares."""

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

    def _read(self, variables):
        """Arrays that share the variables' memory."""
        arrays = []
        for variable in variables:
            known = self._known.get(id(variable))
            if known is None or known.tensor.data_ptr() != known.address:
                known = _Known(variable)
                self._known[id(variable)] = known
            arrays.append(known.array)
        return arrays

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import torch

        self.check_images(images)
        values = self._read([*self.parameters, *self.statistics])
        logits = self.infer_arrays(_array(images), *values)
        return torch.from_numpy(logits)

    def train_step(self, images, optimizer, loss_of):
        """Computes a training step; see `TensorFlowNetwork.train_step`."""
        import torch

        self.check_images(images)
        statistics = self._read(self.statistics)
        logits, moved, ticket = self.begin(
            _array(images), self._read(self.parameters), statistics
        )
        _write(statistics, moved)
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

    def _move(self, optimizer, ticket, of_logits):
        import numpy as np

        arrays = self._read(self.moved_variables(optimizer))
        rate = np.float32(float(optimizer.learning_rate))
        iteration = int(optimizer.iterations.value)
        moved = self.end(optimizer, ticket, of_logits, rate, iteration, arrays)
        _write(arrays, moved)
        optimizer.iterations.assign_add(1)


class _Known:
    """A variable's tensor, and an array over its memory."""

    def __init__(self, variable):
        self.variable = variable  # so that no other has its id
        self.tensor = variable.value
        self.address = self.tensor.data_ptr()
        self.array = self.tensor.detach().numpy()


def _write(arrays, values):
    for array, value in zip(arrays, values, strict=True):
        array[...] = value


def _array(images):
    """Of a batch as it comes, before Keras has made a tensor of it."""
    return images.numpy(force=True) if hasattr(images, "numpy") else images
