"""The engine inside PyTorch's graphs, by `torch.autograd.Function`."""

import functools


def step(network, parameters, images):
    """Returns logits and statistics of a batch; see `on_tensorflow.step`."""
    return _function().apply(network, parameters, images)


@functools.cache
def _function():
    import torch

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, network, parameters, images):
            logits, statistics, ticket = network.forward(
                parameters.numpy(force=True), images.numpy(force=True)
            )
            ctx.network, ctx.ticket = network, ticket
            statistics = torch.from_numpy(statistics)
            ctx.mark_non_differentiable(statistics)
            return torch.from_numpy(logits), statistics

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, of_logits, of_statistics):
            gradient = ctx.network.backward(ctx.ticket, of_logits.numpy())
            return None, torch.from_numpy(gradient), None

    return Step


def inference(network, values, images):
    """Returns the logits of a batch; `values` are weights and statistics."""
    import torch

    logits = network.infer_arrays(
        values.numpy(force=True), images.numpy(force=True)
    )
    return torch.from_numpy(logits)
