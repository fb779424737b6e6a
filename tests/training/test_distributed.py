"""One network over several processes: the shares of a batch give together what the whole batch gives."""

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import layer
from torch import nn

from sj_cka.processes import world
from sj_cka.training import distributed
from sj_cka.training.distributed import own_share, share_weights, sum_gradients, sum_of, synchronised

# run in each process, and here, where nothing is shared: the same networks, batches and steps
SHARED = """
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from sj_cka.processes import world
from sj_cka.training.distributed import own_share, share_weights, sum_gradients, sum_of, synchronised

SIZES = (7, 2)  # of the batches of two steps: uneven shares, and an empty one on the last of three processes


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(dtype):
    torch.manual_seed(0)

    def lif():
        return neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m", surrogate_function=surrogate.ATan())

    return nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False, step_mode="m"),
        layer.BatchNorm2d(4, step_mode="m"),
        lif(),
        layer.Conv2d(4, 5, 3, stride=2, bias=False, step_mode="m"),
        layer.BatchNorm2d(5, step_mode="m"),
        lif(),
        layer.Flatten(start_dim=1, step_mode="m"),
        layer.Linear(30, 6, bias=False, step_mode="m"),
        layer.BatchNorm1d(6, step_mode="m"),
    ).to(dtype)


def backward(net, step, samples):
    "Logits [T, N_p, 6] of some samples of a step's batch [T, N, C, H, W]; adds to the gradients."
    N = SIZES[step]
    x = random(3, N, 2, 5, 8, seed=step).to(net[0].weight.dtype)[:, samples]
    functional.reset_net(net)
    logits = net(x)
    loss = nn.functional.cross_entropy(logits.mean(0), samples, reduction="sum") / N
    loss.backward()
    return logits.detach()


def learn(net):
    "Logits of two steps, the gradients of both together, and the buffers after them."
    logits = [backward(net, step, own_share(torch.arange(N) % 6)) for step, N in enumerate(SIZES)]
    sum_gradients(net)
    return logits, [p.grad for p in net.parameters()], list(net.buffers())


NORMS = {  # module, shape of a batch without N, axis of N
    "1d": (lambda: nn.BatchNorm1d(4), (4,), 0),
    "1d, long": (lambda: nn.BatchNorm1d(4), (4, 6), 0),
    "2d": (lambda: nn.BatchNorm2d(4, momentum=0.3, eps=0.01), (4, 3, 2), 0),
    "3d": (lambda: nn.BatchNorm3d(4), (4, 3, 2, 2), 0),
    "cumulative": (lambda: nn.BatchNorm2d(4, momentum=None), (4, 3, 2), 0),
    "not affine": (lambda: nn.BatchNorm2d(4, affine=False), (4, 3, 2), 0),
    "not tracking": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 2), 0),
    "1d, multi-step": (lambda: layer.BatchNorm1d(4, step_mode="m"), (3, 4), 1),
    "2d, single-step": (lambda: layer.BatchNorm2d(4, step_mode="s"), (4, 3, 2), 0),
    "2d, multi-step": (lambda: layer.BatchNorm2d(4, step_mode="m"), (3, 4, 3, 2), 1),
    "3d, multi-step": (lambda: layer.BatchNorm3d(4, step_mode="m"), (3, 4, 3, 2, 2), 1),
    "threshold-dependent": (lambda: layer.ThresholdDependentBatchNorm2d(0.5, 1.0, 4), (3, 4, 3, 2), 1),
    "through time": (lambda: layer.BatchNormThroughTime2d(3, 4, step_mode="m"), (3, 4, 3, 2), 1),
    "in a container": (
        lambda: layer.SeqToANNContainer(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)), (3, 4, 3, 2), 1
    ),
}


def normalise(name):
    "Outputs and gradients of the inputs of two steps, gradients of the parameters, and buffers."
    make, shape, axis = NORMS[name]
    norm = make().double()
    with torch.no_grad():
        for i, p in enumerate(norm.parameters()):
            p.copy_(random(*p.shape, seed=i))
    outputs, gradients = [], []
    for step, N in enumerate(SIZES):
        whole, weights = (random(*shape[:axis], N, *shape[axis:], seed=seed) for seed in (step, step + 9))
        own = own_share(torch.arange(N))
        x = (2 * whole.index_select(axis, own) + 3).requires_grad_()
        functional.reset_net(norm)
        with synchronised(norm):
            y = norm(x)
        (weights.index_select(axis, own) * y**3).sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    sum_gradients(norm)
    return outputs, gradients, [p.grad for p in norm.parameters()], list(norm.buffers())


def far():
    "Output and running variance of float32 values whose mean is 10000 times their deviation."
    norm = nn.BatchNorm1d(3, momentum=1.0)
    with synchronised(norm):
        y = norm((1e4 + random(9, 3)).float()[own_share(torch.arange(9))])
    return y.detach(), norm.running_var


def half():
    "Output, gradient of the input, gradients and buffers of values in bf16 under autocast."
    norm, x = nn.BatchNorm2d(3), random(5, 3, 4, 2).bfloat16()[own_share(torch.arange(5))].requires_grad_()
    with synchronised(norm), torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    (random(5, 3, 4, 2, seed=1)[own_share(torch.arange(5))] * y).sum().backward()
    sum_gradients(norm)
    return y.detach(), x.grad, [p.grad for p in norm.parameters()], list(norm.buffers())


class Parts(nn.Module):
    "Parts of two dtypes, some of which are not used everywhere."

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(2, 2, bias=False) for _ in range(4))
        self.b.double()
        self.d.requires_grad_(False)

    def forward(self, x, rank):
        y = self.d(self.a(x)).double()
        return self.b(y) if rank == 0 else y
"""
WORK = (
    SHARED
    + """
import sys
import warnings
from datetime import timedelta

from sj_cka.training import distributed

warnings.simplefilter("error")
rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group(
    "gloo", f"file://{folder}/meet", rank=rank, world_size=processes, timeout=timedelta(seconds=60)
)
made = {"world": world(), "share": own_share(torch.arange(10, 17)), "far": far(), "half": half()}
made["sums"] = sum_of(torch.tensor(rank + 0.5), torch.tensor([[1, rank]]).T, torch.ones(2, requires_grad=True))
for name in NORMS:
    made[name] = normalise(name)
for dtype in (torch.float32, torch.float64):
    with synchronised(net := network(dtype)):
        made[str(dtype)] = learn(net)
made["apart"] = learn(network(torch.float64))
distributed.BUCKET = 100  # a few parameters
made["apart, in buckets"] = learn(network(torch.float64))

torch.manual_seed(0)
parts = Parts()
parts(torch.ones(1, 2), rank).sum().backward()
sum_gradients(parts)
made["parts"] = {name: p.grad for name, p in parts.named_parameters()}

torch.manual_seed(rank)
net = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(2, 2).double())
net.register_buffer("none", torch.empty(0))
net.register_buffer("odd", torch.tensor([rank == 0, rank == 1]))
net[1].num_batches_tracked += 2**40 + rank
net[1].running_mean += rank
if rank == 1:
    net.to(memory_format=torch.channels_last)
made["before"] = {name: tensor.clone() for name, tensor in net.state_dict().items()}
share_weights(net)
made["after"] = dict(net.state_dict())
made["channels last"] = net[0].weight.is_contiguous(memory_format=torch.channels_last)

norm = nn.BatchNorm1d(3)
with synchronised(norm):
    try:
        norm(random(1, 3)[own_share(torch.arange(1))].float())
    except ValueError as error:
        made["one value"] = str(error)
    made["untouched"] = dict(norm.state_dict())
    norm.eval()
    if rank == 0:  # alone: it would wait for the others in vain
        assert torch.equal(norm(torch.ones(2, 3)), nn.BatchNorm1d(3).eval()(torch.ones(2, 3)))

torch.save(made, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""
)
here: dict = {}
exec(SHARED, here)
SIZES, NORMS, network, backward, learn, normalise = (
    here[name] for name in ("SIZES", "NORMS", "network", "backward", "learn", "normalise")
)


@pytest.fixture(scope="module", params=[2, 3])
def made(request, tmp_path_factory, together):
    """What each of 2 or 3 processes made."""
    folder, processes = tmp_path_factory.mktemp("group"), range(request.param)
    together(WORK, *((rank, request.param, folder) for rank in processes))
    return [torch.load(folder / f"{rank}.pt") for rank in processes]


def close(found, expected, tolerance):
    """Whether tensors are, as wholes, within a relative tolerance."""
    assert len(found) == len(expected)
    return all(
        a.shape == b.shape and a.dtype == b.dtype and (a - b).double().norm() <= tolerance * b.double().norm()
        for a, b in zip(found, expected, strict=True)
    )


def joined(of_processes, axis):
    """Outputs or gradients of each step, put together from the shares."""
    return [torch.cat(shares, axis) for shares in zip(*of_processes, strict=True)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_synchronised_shares_give_outputs_gradients_and_statistics_of_the_whole_batch(made, dtype, tolerance):
    logits, gradients, buffers = learn(network(dtype))
    found = [process[str(dtype)] for process in made]
    assert close(joined([f[0] for f in found], axis=1), logits, tolerance)
    for _, own_gradients, own_buffers in found:
        assert close(own_gradients, gradients, tolerance)
        assert close(own_buffers, buffers, tolerance)
    assert all(g.norm() > 1e-3 for g in gradients), "a gradient of zero would prove little"


@pytest.mark.parametrize("name", NORMS)
def test_every_kind_of_batch_normalisation_is_synchronised(made, name):
    outputs, of_inputs, of_parameters, buffers = normalise(name)
    found, axis = [process[name] for process in made], NORMS[name][2]
    assert close(joined([f[0] for f in found], axis), outputs, 1e-12)
    assert close(joined([f[1] for f in found], axis), of_inputs, 1e-11)  # differences of larger terms
    for f in found:
        assert close(f[2], of_parameters, 1e-12)
        assert close(f[3], buffers, 1e-12)


@pytest.mark.parametrize("kind", ["apart", "apart, in buckets"])
def test_without_synchronisation_gradients_are_the_mean_of_those_of_each_share_by_itself(made, kind):
    by_hand = network(torch.float64)
    for step, N in enumerate(SIZES):
        for share in (torch.arange(N) % 6).tensor_split(len(made)):
            if len(share):
                backward(by_hand, step, share)
    found = [process[kind][1] for process in made]
    assert close(found[0], [p.grad for p in by_hand.parameters()], 1e-12)
    assert all(torch.equal(a, b) for other in found for a, b in zip(other, found[0], strict=True))
    assert not close(found[0], learn(network(torch.float64))[1], 1e-3), "the statistics are those of shares"


def test_statistics_of_values_far_from_zero_are_exact_to_rounding(made):
    x = (1e4 + here["random"](9, 3)).float().double()
    expected = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    for process in made:
        assert close([process["far"][1].double()], [x.var(0)], 1e-6)
    # as in one process, the mean and torch's a x + b are rounded to float32, by 5e-4 each at 1e4
    assert torch.allclose(joined([[p["far"][0]] for p in made], axis=0)[0].double(), expected, rtol=0, atol=3e-3)


def test_under_autocast_activations_stay_bf16_and_statistics_are_of_float32(made):
    output, of_input, of_parameters, buffers = here["half"]()
    found = [process["half"] for process in made]
    assert output.dtype == of_input.dtype == torch.bfloat16
    assert close(joined([[f[0], f[1]] for f in found], axis=0), [output, of_input], 2**-8)
    for f in found:
        assert close(f[2], of_parameters, 1e-5)
        assert close(f[3], buffers, 1e-6)
        assert f[3][0].dtype == torch.float32


def test_a_parameter_unused_on_some_processes_has_the_sum_of_the_others_everywhere(made):
    torch.manual_seed(0)
    parts = here["Parts"]()
    for rank in range(len(made)):
        parts(torch.ones(1, 2), rank).sum().backward()
    for process in made:
        gradients = process["parts"]
        assert close([gradients["a.weight"], gradients["b.weight"]], [parts.a.weight.grad, parts.b.weight.grad], 1e-6)
        assert gradients["c.weight"] is None, "used nowhere: an optimiser is to pass over it"
        assert gradients["d.weight"] is None, "frozen"


def test_all_processes_get_the_weights_and_buffers_of_the_first_and_keep_their_layout(made):
    first = made[0]["before"]
    assert not torch.equal(made[1]["before"]["0.weight"], first["0.weight"])
    for process in made:
        assert list(process["after"]) == list(first)
        assert all(torch.equal(process["after"][name], first[name]) for name in first)
    assert [process["channels last"] for process in made] == [rank == 1 for rank in range(len(made))]


def test_sums_are_over_processes_and_keep_shape_and_dtype(made):
    n = len(made)
    expected = (torch.tensor(n * n / 2), torch.tensor([[n], [n * (n - 1) // 2]]), torch.full((2,), float(n)))
    for process in made:
        for total, of_all in zip(process["sums"], expected, strict=True):
            assert torch.equal(total, of_all)
            assert total.dtype == of_all.dtype
            assert not total.requires_grad


def test_one_value_a_channel_over_all_processes_is_refused_by_all_and_changes_nothing(made):
    for process in made:
        assert process["one value"].startswith("expected at least 2 values a channel over all processes")
        assert all(torch.equal(process["untouched"][name], x) for name, x in nn.BatchNorm1d(3).state_dict().items())


def test_each_process_knows_its_place_and_takes_its_share(made):
    assert [process["world"] for process in made] == [(rank, len(made)) for rank in range(len(made))]
    sizes = [len(process["share"]) for process in made]
    assert sizes == {2: [4, 3], 3: [3, 2, 2]}[len(made)]
    assert torch.equal(torch.cat([process["share"] for process in made]), torch.arange(10, 17))


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_hold_every_index_once_in_order_and_are_as_equal_as_can_be(N, processes):
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(processes):
            patch.setattr(distributed, "world", lambda rank=rank: (rank, processes))
            shares.append(own_share(torch.arange(N)))
    assert torch.equal(torch.cat(shares), torch.arange(N))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(params=["no group", "group of one"])
def alone(request, tmp_path):
    if request.param == "group of one":
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    if request.param == "group of one":
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_process_alone_changes_nothing_and_sends_nothing(monkeypatch):
    for name in ("all_reduce", "all_gather", "broadcast"):
        monkeypatch.delattr(torch.distributed, name)
    assert world() == (0, 1)
    indices = torch.arange(5)
    assert torch.equal(own_share(indices), indices)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = copy.deepcopy(net.state_dict())
    share_weights(net)
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    net[0](torch.ones(4, 2)).sum().backward()
    sum_gradients(net)
    assert torch.equal(net[0].bias.grad, torch.full((3,), 4.0))
    assert net[1].weight.grad is None
    [total] = sum_of(net[0].bias)
    assert torch.equal(total, net[0].bias)
    assert not total.requires_grad
    with synchronised(net):
        assert type(net[1]) is nn.BatchNorm1d


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory")], ids=str)
def test_modules_are_as_before_at_the_end_also_after_an_error(monkeypatch, error):
    monkeypatch.setattr(distributed, "world", lambda: (0, 2))
    norms = [nn.BatchNorm1d(3), layer.BatchNorm2d(3, step_mode="m"), layer.ThresholdDependentBatchNorm2d(0.5, 1.0, 3)]
    net = nn.Sequential(*norms, norms[0])  # one of them twice
    kinds, attributes = [type(norm) for norm in norms], [dict(vars(norm)) for norm in norms]
    with (
        pytest.raises(RuntimeError, match=str(error)) if error else nullcontext(),
        synchronised(net),
        synchronised(net),
    ):
        for norm, kind in zip(norms, kinds, strict=True):
            assert type(norm) is not kind
            assert isinstance(norm, kind)
            assert type(norm).__name__ == kind.__name__
        if error:
            raise error
    assert [type(norm) for norm in norms] == kinds
    assert [dict(vars(norm)) for norm in norms] == attributes


def test_a_forward_of_ones_own_is_kept_around_the_synchronised_one(monkeypatch):
    class Doubled(nn.BatchNorm1d):
        def forward(self, x):
            return 2 * super().forward(x)

    def gathered(parts, own):
        for part in parts:
            part.copy_(own)

    monkeypatch.setattr(distributed, "world", lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, "all_gather", gathered)  # two processes with the same batch
    x, hooked = here["random"](4, 3).float(), []
    norm, plain = Doubled(3), nn.BatchNorm1d(3)
    norm.register_forward_hook(lambda module, args, out: hooked.append(out))
    with synchronised(norm):
        y = norm(x)
    assert torch.allclose(y, 2 * plain(torch.cat([x, x]))[:4], atol=1e-6)
    assert torch.allclose(norm.running_var, plain.running_var)
    assert hooked[0] is y
