"""Networks of other kinds: wrapped, compiled, quantised, sparse, nested, lazy, of one batch size; and batches."""

import collections
import copy
import dataclasses
import types
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.ao import quantization
from torch.optim.swa_utils import AveragedModel

from sj_cka import ann_twin, compare, record, snn_twin
from sj_cka.recording import StateError, plan_observation
from sj_cka.recording.wrappers import without_wrappers
from sj_cka.twins import converted_snn


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2)).eval()


class Classifies(nn.Module):
    """With a forward of its own, which is what torch compiles."""

    def __init__(self):
        super().__init__()
        self.fc, self.relu = nn.Linear(12, 8), nn.ReLU()

    def forward(self, x):
        return self.relu(self.fc(x)) * 2


def compiled(net):
    return torch.compile(net, backend="eager", fullgraph=True)


def compiled_inside(net):
    net = copy.deepcopy(net)
    net[2] = torch.compile(net[2], backend="eager")
    return net


def compiled_in_place(net):
    net = copy.deepcopy(net)
    net.compile(backend="eager", fullgraph=True)
    return net


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "both": lambda net: AveragedModel(nn.DataParallel(net)),
    "compiled": compiled,
    "compiled and averaged": lambda net: compiled(AveragedModel(net)),
    "compiled member": compiled_inside,
    "compiled in place": compiled_in_place,
}
LAYERS = ["0", "1", "2.0", "2.1"]


def x_of(n=12):
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_network_pairs_with_the_plain_one_under_its_names(how):
    net = mlp()
    wrapped = WRAPPED[how](net)
    own = compare(net, loader=x_of(), progress=False)
    found = compare(wrapped, net, x_of(), progress=False)
    assert list(found.matrix().index) == LAYERS
    assert found.data.attrs["x"] == "Sequential"
    assert np.array_equal(found.data.hsic_xx, own.data.hsic_xx)
    assert found.paired().tolist() == pytest.approx([1] * 4)
    with record(wrapped) as features, torch.no_grad():
        wrapped(x_of())
    assert list(features) == LAYERS


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", WRAPPED)
def test_twins_are_made_of_the_network_inside_a_wrapper(how):
    net = mlp()
    wrapped = WRAPPED[how](net)
    spiking = snn_twin(wrapped, T=2)
    assert compare(spiking, net, x_of(), progress=False).paired().index.tolist() == LAYERS
    assert spiking.state_dict().keys() == net.state_dict().keys()
    back = ann_twin(wrapped if how == "none" else WRAPPED[how](spiking))
    assert compare(back.eval(), net, x_of(), progress=False).paired().tolist() == pytest.approx([1] * 4)
    rates = converted_snn(wrapped, [x_of()], T=2)
    assert rates(x_of()).shape == (2, 12, 2)


def test_layers_and_select_may_be_named_with_or_without_what_a_wrapper_adds():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x * 2

    net = nn.Sequential(nn.Linear(12, 8), Pair()).eval()
    wrapped = nn.DataParallel(net)
    for names, select in (
        (["module.0", "module.1"], {"module.1": 1}),
        (["0", "1"], {"1": 1}),
        (["module.*"], {"*": 1}),
    ):
        assert plan_observation(wrapped, x_of(), layers=names, select=select).layers == ("0", "1")
    compare(
        wrapped,
        net,
        x_of(),
        select={"module.1": 1, "1": 1},
        layers={"x": ["module.0", "module.1"], "y": "*"},
        progress=False,
    )
    assert without_wrappers(AveragedModel(wrapped), "module.module.1") == "1"


def test_a_child_called_module_is_no_wrapper():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = mlp()

        def forward(self, x):
            return self.module(x)

    assert plan_observation(Holds().eval(), x_of()).layers == tuple(f"module.{name}" for name in LAYERS)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", [compiled_in_place, compiled])
def test_what_was_compiled_runs_uncompiled_and_makes_no_graph(how):
    torch._dynamo.reset()
    net = how(Classifies().eval())
    with torch.no_grad():
        net(x_of())
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    assert before
    compare(net, loader=x_of(), progress=False)
    with record(net), torch.no_grad():
        net(x_of())
    assert counters["unique_graphs"] == before
    with torch.no_grad():
        net(x_of(14))  # and compiles as before afterwards
    assert counters["unique_graphs"] == before + 1


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.enc, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, ids):
        return self.head(self.enc(self.emb(ids), src_key_padding_mask=ids == 0).mean(1))


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_the_fast_path_of_transformers_is_off_while_they_are_compared():
    torch.manual_seed(0)
    net, ids = Text().eval(), torch.randint(1, 20, (12, 7))
    ids[::3, 5:] = 0
    layers = ["emb", "enc.layers.0.linear1", "enc.layers.0", "enc.layers.1"]
    found = compare(net, loader=ids, layers=layers, progress=False)
    with record(net, layers) as features, torch.no_grad():
        net(ids)
    assert torch.backends.mha.get_fastpath_enabled()
    seen, handles = {}, []
    for name in layers:
        hook = lambda m, args, out, name=name: seen.__setitem__(name, out)  # noqa: E731
        handles.append(net.get_submodule(name).register_forward_hook(hook))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            net(ids)
        slow = compare(net, loader=ids, layers=layers, progress=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        for handle in handles:
            handle.remove()
    assert np.array_equal(found.data.hsic_xx, slow.data.hsic_xx)
    assert all(torch.equal(features[name][0], seen[name]) for name in layers)


class To(nn.Module):
    """Hands its input on as another kind of tensor."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(x)


KINDS = {
    "coo": lambda x: x.relu().to_sparse(),
    "csr": lambda x: x.relu().to_sparse_csr(),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.05, 10, torch.qint8),
    "by channel": lambda x: torch.quantize_per_channel(x, torch.full((8,), 0.05), torch.zeros(8), 1, torch.quint8),
    "mkldnn": lambda x: x.to_mkldnn(),
}


def dense(x):
    return x.dequantize() if x.is_quantized else x.to_dense()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_layers_of_another_kind_of_tensor_are_compared_by_their_values(kind):
    torch.manual_seed(0)
    linear, last = nn.Linear(12, 8), nn.Linear(8, 4)
    net = nn.Sequential(linear, To(KINDS[kind]), To(dense), last, nn.Tanh()).eval()
    plain = nn.Sequential(linear, To(lambda x: dense(KINDS[kind](x))), nn.Identity(), last, nn.Tanh()).eval()
    found = compare(net, plain, x_of(), layers=["0", "1", "4"], progress=False)
    assert np.array_equal(found.data.hsic_xx, found.data.hsic_yy)
    with record(net, "1") as features:
        net(x_of())
    assert torch.equal(features["1"][0], plain[:2](x_of()))
    compare(net, loader=x_of(), progress=False)  # nobody asked for a layer


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_layer_that_was_asked_for_is_refused_with_the_way_out_and_another_left_alone():
    def nest(x):
        return torch.nested.nested_tensor([row[:3] for row in x])

    net = nn.Sequential(nn.Linear(12, 8), To(nest), To(lambda x: x.to_padded_tensor(0.0)), nn.Tanh()).eval()
    compare(net, loader=x_of(), layers=["0", "3"], progress=False)
    with pytest.raises(ValueError, match=r"module '1' puts out a nested tensor, expected a tensor: select="):
        compare(net, loader=x_of(), layers=["1"], progress=False)
    padded = {"1": lambda output: output.to_padded_tensor(0.0)}
    assert plan_observation(net, x_of(), layers=["1", "2"], select=padded).layers == ("1", "2")


def quantised():
    float_net = nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        quantization.DeQuantStub(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()
    net = copy.deepcopy(float_net)
    net.qconfig = quantization.get_default_qconfig("fbgemm")
    net[5].qconfig = None
    quantization.prepare(net, inplace=True)
    net(torch.rand(20, 1, 6, 6))
    return quantization.convert(net, inplace=True).eval(), float_net


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_compared_with_that_it_was_made_of():
    torch.manual_seed(0)
    net, float_net = quantised()
    x = torch.rand(20, 1, 6, 6)
    found = compare(net, float_net, x, layers=["1", "2"], progress=False).paired()
    picked = compare(
        net,
        float_net,
        x,
        layers=["1", "2"],
        select=lambda name, out: dense(out) if out.is_quantized else out,
        progress=False,
    )
    assert found.tolist() == picked.paired().tolist()
    assert all(0.99 < value < 1 for value in found)


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def scripted():
    return torch.jit.script(mlp())


def traced():
    return torch.jit.trace(mlp(), x_of())


def exported():
    return torch.export.export(mlp(), (x_of(),))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (scripted, "TorchScript"),
        (traced, "TorchScript"),
        (lambda: nn.DataParallel(traced()), "TorchScript"),
        (exported, "give the network that it was exported from"),
        (lambda: exported().module(), "as a network of modules, got a graph of functions"),
        (lambda: torch.jit.script(double), "as an nn.Module, got ScriptFunction: compiled TorchScript"),
        (lambda: x_of, "as an nn.Module, got function"),
        (lambda: {"model": mlp().state_dict()}, "as an nn.Module, got dict"),
    ],
)
def test_what_has_no_modules_to_look_into_is_refused_in_one_sentence(make, said):
    net = make()
    for run in (
        lambda: compare(net, loader=x_of(), progress=False),
        lambda: record(net).__enter__(),
        lambda: snn_twin(net, T=2),
        lambda: ann_twin(net),
        lambda: converted_snn(net, [x_of()], T=2),
    ):
        with pytest.raises(TypeError, match=said):
            run()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_member_is_passed_over_and_a_graph_of_modules_is_a_network():
    net = mlp()
    with_script = nn.Sequential(*net)
    with_script[2] = torch.jit.script(net[2])
    assert plan_observation(with_script.eval(), x_of()).layers == ("0", "1")
    with pytest.raises(ValueError, match=r"layers: .2\.0. matches 2\.0, which is compiled TorchScript"):
        plan_observation(with_script, x_of(), layers="2.0")
    assert plan_observation(fx.symbolic_trace(net), x_of()).layers == tuple(LAYERS)
    graph = fx.symbolic_trace(net).eval()
    assert compare(graph, net, x_of(), progress=False).paired().tolist() == pytest.approx([1] * 4)


class LazyBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", nn.parameter.UninitializedBuffer())


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("member", "why"),
    [
        (lambda: nn.LazyLinear(8), "'weight' of module '2' .LazyLinear. has no values yet: it is lazy"),
        (nn.LazyBatchNorm1d, "'weight' of module '2' .LazyBatchNorm1d. has no values yet: it is lazy"),
        (LazyBuffer, "'mean' of module '2' .LazyBuffer. has no values yet: it is lazy"),
        (
            lambda: nn.Linear(8, 8, device="meta"),
            "'weight' of module '2' .Linear. has no values yet: it is on the device meta",
        ),
        (
            lambda: nn.BatchNorm1d(8, affine=False, device="meta"),
            "'running_mean' of module '2' .BatchNorm1d. has no values",
        ),
    ],
)
def test_modules_without_values_are_refused_by_name_wherever_a_network_comes_in(member, why):
    net = mlp()
    net[2] = member().eval()
    for run in (
        lambda: compare(mlp(), net, x_of(), progress=False),
        lambda: compare(nn.DataParallel(net), loader=x_of(), progress=False),
        lambda: record(net).__enter__(),
        lambda: plan_observation(net, x_of()),
        lambda: snn_twin(net, T=2),
        lambda: converted_snn(net, [x_of()], T=2),
    ):
        with pytest.raises(ValueError, match=why):
            run()
    assert type(net[2]) is type(member())


class OfOneSize(nn.Module):
    """A state of a fixed number of samples."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 8)

    def forward(self, x):
        return self.fc(x) + torch.zeros(20, 8)


class Folded(OfOneSize):
    """Four frames of a video folded into the batch."""

    def forward(self, x):
        y = self.fc(x)
        return y.view(-1, 4, 8).roll(1, 1).reshape(y.shape)


class Pairs(OfOneSize):
    def forward(self, x):
        if len(x) % 2:
            raise ValueError("expected pairs")
        return self.fc(x)


@pytest.mark.parametrize("kind", [OfOneSize, Folded, Pairs])
def test_a_network_of_a_fixed_batch_size_is_said_to_run_on_its_batch(kind):
    net = kind().eval()
    said = "it runs on its batch of 20, but not on [23] of its samples, with which steps and samples are found out"
    with pytest.raises(ValueError, match=said):
        compare(net, loader=x_of(20), progress=False)
    with pytest.raises(ValueError, match=said):
        compare(net, loader=x_of(20), forward=lambda net, batch: net(batch), progress=False)
    with pytest.raises(ValueError, match=said), record(net):
        net(x_of(20))


def test_a_network_that_does_not_run_is_said_not_to_and_record_lets_its_own_error_through():
    net = nn.Sequential(nn.Linear(7, 3)).eval()
    with pytest.raises(ValueError, match="it does not run on the batch: RuntimeError: mat1 and mat2"):
        compare(net, loader=x_of(), progress=False)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), record(net):
        net(x_of())


def test_what_sets_the_mode_and_fails_is_not_blamed_on_the_network():
    class Fails(nn.Sequential):
        def train(self, mode=True):
            if not mode:
                raise OSError("no weights to merge")
            return super().train(mode)

    net = Fails(nn.Linear(12, 3))
    with pytest.raises(StateError, match=r"^eval\(\) of the network \(Fails\) raised OSError: no weights to merge"):
        compare(net, loader=x_of(), allow_train=True, progress=False)


class Encoding(UserDict):
    """As tokenisers give it: a mapping that is no dict, with .to()."""

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    label: int


@dataclasses.dataclass(slots=True)
class Slots:
    x: torch.Tensor


class Plain:
    def __init__(self, x):
        self.x, self.names = x, ["a"]


Named = collections.namedtuple("Named", "x label")
BATCHES = {
    "a mapping that is no dict": lambda x: Encoding({"x": x, "text": ["a"]}),
    "a mapping that cannot be changed": lambda x: types.MappingProxyType({"x": x}),
    "a default dict": lambda x: collections.defaultdict(list, x=x),
    "an ordered dict": lambda x: collections.OrderedDict(x=x),
    "a named tuple": lambda x: Named(x, 1),
    "a frozen dataclass": lambda x: Record(x, 1),
    "a dataclass with slots": Slots,
    "a namespace": lambda x: types.SimpleNamespace(x=x),
    "an object": Plain,
    "a list in a dict": lambda x: {"x": [x]},
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_every_kind_are_taken_apart_and_handed_out_as_copies_of_their_kind(kind):
    def forward(net, batch):
        assert type(batch) is type(given)
        x = batch["x"] if isinstance(batch, dict | UserDict | types.MappingProxyType) else batch.x
        return net((x[0] if isinstance(x, list) else x).mul_(2))

    x, net = x_of(16), mlp()
    given = BATCHES[kind](x)
    found = compare(net, loader=[given], forward=forward, given="input", progress=False)
    assert torch.equal(x, x_of(16))
    right = compare(net, loader=2 * x_of(16), given="input", progress=False)
    assert np.array_equal(found.data.hsic_xx, right.data.hsic_xx)
