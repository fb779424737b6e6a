"""Activations in the forward of a feed-forward network: how often each is used, and a neuron for every use."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron
from torch import Tensor, fx, nn

from sj_cka.recording.state import is_multi_step
from sj_cka.twins.untimed import timed

# what acts on every number alone; a Sigmoid is left out, which mostly is a gate
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softplus, nn.Threshold),
)
# the same as functions and methods; those that work in place end in _
_FUNCTIONAL = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "tanh", "softplus", "threshold"),
}
_NOT_FORWARD = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_AXES = ((nn.Conv1d, 3), (nn.Conv2d, 4), (nn.Conv3d, 5))
_CONTAINERS = (sj_layer.SeqToANNContainer, sj_layer.MultiStepContainer, sj_layer.StepModeContainer)


class Uses(neuron.IFNode):
    """A neuron for each use of an activation within a forward pass, in turn; itself it integrates nothing.

    It is called on `[T*N, ...]`, as the layers around it are; hooks see `[T, N, ...]`, as those of any neuron. Being
    one of SpikingJelly's by class, it is a layer to `compare`, and what lies in it is none. In a network of multi-step
    layers, the artificial twin of a spiking one, it is called on `[1, T*N, ...]`: its `outer_mode` is "m", else "s".
    """

    def __init__(self, neurons: Sequence[nn.Module], T: int) -> None:
        super().__init__(step_mode="m")
        self.T, self.use = T, 0
        self.outer_mode = "s"
        self.samples_ndim: int | None = None
        self.uses = nn.ModuleList(neurons)

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes `[T*N, ...]`, behind an axis of one step if the input is."""
        if self.outer_mode == "m":
            if x.shape[0] != 1:
                raise ValueError(f"expected a network without steps of its own, one of its activations sees {len(x)}")
            x = x.squeeze(0)
        spikes: Tensor = super().__call__(x.unflatten(0, (self.T, -1))).flatten(0, 1)
        return spikes.unsqueeze(0) if self.outer_mode == "m" else spikes

    def forward(self, x_seq: Tensor) -> Tensor:
        """Spikes `[T, N, ...]` of the neuron whose turn it is."""
        node: Any = self.uses[self.use]
        self.use = (self.use + 1) % len(self.uses)
        if not self.store_v_seq:
            spikes: Tensor = node(x_seq)
            return spikes
        before, node.store_v_seq = node.store_v_seq, True
        spikes = node(x_seq)
        self.v_seq, node.store_v_seq = node.v_seq, before
        return spikes


def uses_of(ann: nn.Module, activations: tuple[type[nn.Module], ...] = ACTIVATIONS) -> list[str]:
    """Names of the activations in the order of their uses in a forward pass, each as often as it is used.

    Raises:
        ValueError: none; one that is called as a function (a sigmoid or softmax is none, but a gate); a recurrent layer
            or attention; or a forward that torch.fx cannot follow.
    """
    for name, module in ann.named_modules():
        if isinstance(module, _NOT_FORWARD):
            raise ValueError(f"expected a feed-forward network, {name!r} is a {type(module).__name__}")
    try:
        graph = _Tracer(samples_ndim(ann)).trace(timed(ann))
    except Exception as error:  # whatever a forward says to symbols in place of numbers
        raise ValueError(
            f"expected a forward without control flow on its data: torch.fx cannot follow that of "
            f"{type(ann).__name__} ({type(error).__name__}: {error})"
        ) from error
    modules, used = dict(ann.named_modules()), []
    for node in graph.nodes:
        called = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op in ("call_function", "call_method") and str(called).strip("_") in _FUNCTIONAL:
            raise ValueError(
                f"expected activations as modules, the forward calls {called} as a function ({node.name}): give the "
                "network an nn.ReLU() for each"
            )
        if node.op == "call_module" and isinstance(modules[node.target], activations):
            used.append(node.target)
    if not used:
        wanted = ", ".join(kind.__name__ for kind in activations)
        raise ValueError(f"expected activations ({wanted}) in {type(ann).__name__}, its forward uses none")
    return used


def samples_ndim(ann: nn.Module) -> int | None:
    """Axes of a batch `[N, ...]`, as the first convolution says; None without one."""
    return next((axes for m in ann.modules() for kind, axes in _AXES if isinstance(m, kind)), None)


class _Tracer(fx.Tracer):
    """Knows the number of axes of the input, and takes every module without children as a whole.

    SpikingJelly's containers, which loop over steps or merge them, are the layers in them in turn. A question about
    sizes is answered with no: mostly it is whether to raise.
    """

    def __init__(self, ndim: int | None) -> None:
        super().__init__()
        self.ndim = ndim

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The value that a module gives."""
        if not isinstance(m, _CONTAINERS):
            return super().call_module(m, forward, args, kwargs)
        (x,) = args
        for member in m.children():
            x = member(x)
        return x

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a value."""
        return _Input(node, self) if node.op == "placeholder" and self.ndim is not None else super().proxy(node)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """An answer where a forward branches; none where it does so on its data."""
        return False if _of_sizes(obj.node) else super().to_bool(obj)


def _of_sizes(node: fx.Node) -> bool:
    """Whether a value comes from sizes alone."""
    asks = node.op == "call_method" and node.target in ("size", "numel", "dim")
    reads = node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
    computes = node.op in ("call_function", "call_method") and bool(node.all_input_nodes)
    return asks or reads or (computes and all(map(_of_sizes, node.all_input_nodes)))


class _Input(fx.Proxy):
    """The input of a network."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        tracer: Any = self.tracer
        return int(tracer.ndim)

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim


def over_time(net: nn.Module, nodes: Mapping[str, Uses]) -> nn.Module:
    """Puts neurons in the places of activations, in a network that then takes `[N, ...]` or `[T, N, ...]`.

    It is changed in place, gives `[T, N, ...]` and keeps its device.
    """
    parameter = next(net.parameters(), None)
    for name, node in nodes.items():
        activation = net.get_submodule(name)
        node.outer_mode = "m" if is_multi_step(activation) else "s"
        node.samples_ndim = samples_ndim(net)
        net.set_submodule(name, node.train(activation.training).to(None if parameter is None else parameter.device))
    net.register_forward_pre_hook(_show)
    net.register_forward_hook(_unfold)
    return net


def _nodes(net: nn.Module) -> Iterator[Uses]:
    return (module for module in net.modules() if isinstance(module, Uses))


def _show(net: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    """The input `[T*N, ...]`; every forward pass starts at the first use of each activation."""
    for node in _nodes(net):
        node.use = 0
    if len(args) != 1:
        raise TypeError(f"expected one input, [N, ...] or [T, N, ...], got {len(args)}")
    (x,), T, ndim = args, node.T, node.samples_ndim  # as of every other
    if ndim is None or x.ndim == ndim:
        return x.repeat(T, *[1] * (x.ndim - 1))
    if x.ndim != ndim + 1 or len(x) != T:
        raise ValueError(f"expected [N, ...] of {ndim} axes, or [T, N, ...] with T = {T}, got shape {tuple(x.shape)}")
    return x.flatten(0, 1)


def _unfold(net: nn.Module, args: Any, output: Any) -> Any:
    T = next(_nodes(net)).T
    if left := [name for name, node in net.named_modules() if isinstance(node, Uses) and node.use]:
        raise RuntimeError(
            f"the forward used {', '.join(left)} not as often as torch.fx saw: expected one without control flow"
        )
    if isinstance(output, Tensor):
        return output.unflatten(0, (T, -1))
    raise TypeError(f"expected a network that puts out one tensor [N, ...], got {type(output).__name__}")
