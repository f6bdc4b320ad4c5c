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

    def _read(self, variables, of=None):
        """Arrays that share the variables' memory.

        Args:
            variables: a list that is the same in each call with one `of`.
            of: what names the list, such as an optimiser; None: itself.
        """
        of = variables if of is None else of
        known = self._known.get(id(of))
        if known is None or known.is_not(variables):
            known = self._known[id(of)] = _Known(of, variables)
        return known.arrays

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import torch

        self.check_images(images)
        values = self._read(self.parameters), self._read(self.statistics)
        logits = self.infer_arrays(_array(images), *values[0], *values[1])
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

        arrays = self._read(self.moved_variables(optimizer), of=optimizer)
        rate = np.float32(float(optimizer.learning_rate))
        iteration = int(optimizer.iterations.value)
        moved = self.end(optimizer, ticket, of_logits, rate, iteration, arrays)
        _write(arrays, moved)
        optimizer.iterations.assign_add(1)


class _Known:
    """Variables' tensors, and arrays over their memory."""

    def __init__(self, of, variables):
        self.of = of, variables  # so that no others have their ids
        self.tensors = [variable.value for variable in variables]
        self.addresses = [tensor.data_ptr() for tensor in self.tensors]
        self.arrays = [tensor.detach().numpy() for tensor in self.tensors]

    def is_not(self, variables):
        """Whether there are more by now, or one's tensor has other memory."""
        addresses = [tensor.data_ptr() for tensor in self.tensors]
        return len(variables) != len(addresses) or addresses != self.addresses


def _write(arrays, values):
    for array, value in zip(arrays, values, strict=True):
        array[...] = value


def _array(images):
    """Of a batch as it comes, before Keras has made a tensor of it."""
    return images.numpy(force=True) if hasattr(images, "numpy") else images
