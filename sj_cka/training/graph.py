"""A whole step of a training as one CUDA graph: the processor launches it once, in place of some thousand kernels."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sj_cka.recording import reset_states
from sj_cka.training.step import Step

_log = logging.getLogger("sj_cka")
_WARM_UP = 3  # real steps before a capture, in which libraries choose kernels and constants are made


class GraphStep:
    """`step(x, y, size)` as `Step`, captured after three steps and replayed for every batch of the same shape.

    A batch of another shape (a shorter last one) runs as it is. So do all where the step cannot be captured, because
    something in the network waits for the device, say: the reason is logged. What a network draws at random it draws
    anew in each replay; what it decides on the processor is decided once, at the capture.

    Must be called in `on_side_stream`, with nothing on another stream that a step reads or writes.

    Args:
        step: deferred.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.before = _WARM_UP
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refused = False

    def __call__(self, x: Tensor, y: Tensor, size: int, look: Callable[[Tensor], None] | None = None) -> Tensor:
        if self.refused or look is not None:
            return self.step(x, y, size, look)
        if self.graph is None:
            if self.before > 0:
                self.before -= 1
                return self.step(x, y, size)
            self._capture(x, y, size)
        if self.graph is None or (x.shape, y.shape, size) != (self.x.shape, self.y.shape, self.size):
            return self.step(x, y, size)
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.loss.clone()

    def _capture(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size = x.clone(), y.clone(), size
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self.loss = self.step(self.x, self.y, size)
        except Exception as error:  # whatever a network does that a graph cannot hold
            self.refused = True
            reason = " ".join(str(error).split("\n\n")[0].split())
            _log.warning("the training step was not captured as a CUDA graph and runs as it is: %s", reason)
            self._put_back()
        else:
            self.graph = graph

    def _put_back(self) -> None:
        """Nothing of a broken capture ran on the device; what it left on the processor goes."""
        step = self.step
        step.optimiser.zero_grad(set_to_none=True)
        scale = step.scaler.state_dict()
        step.scaler = step.new_scaler()
        step.scaler.load_state_dict(scale)
        reset_states(step.network)


@contextmanager
def on_side_stream(device: torch.device) -> Iterator[None]:
    """Runs what stands inside on a CUDA stream of its own, after all before it and before all after it."""
    outside = torch.cuda.current_stream(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(outside)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        outside.wait_stream(side)
