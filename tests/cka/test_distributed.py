"""Sums across processes."""

import socket

import numpy as np
import pytest

from sj_cka import CKA, CKAResult, compare

# run in each process, and here: the same networks and batches
SHARED = """
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

def batches():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, 6, generator=g) for n in (16, 16, 16, 8, 16)]

def networks():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 5), nn.Tanh()).eval() for _ in range(2)]

def spiking():
    torch.manual_seed(1)
    net = nn.Sequential(layer.Linear(6, 30), neuron.LIFNode(v_threshold=0.3), layer.Linear(30, 9)).eval()
    functional.set_step_mode(net, "m")
    return net
"""
WORK = (
    SHARED
    + """
import sys
from sj_cka import CKA, compare

rank, port, folder, shares = int(sys.argv[1]), sys.argv[2], sys.argv[3], [(0, 1, 2), (3, 4)]
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
mine = [batches()[i] for i in shares[rank]]
compare(*networks(), mine, into=CKA(measures=["rsa"], permutations=5), progress=False).save(f"{folder}/{rank}.nc")
compare(
    spiking(), loader=mine, T=4, into=CKA(permutations={"steps": 1}), progress=False
).save(f"{folder}/null {rank}.nc")
state = CKA()
if rank == 0:
    state.update({"a": batches()[0][None]})
state.all_reduce()
assert state.n == 16, "who saw nothing has the sums of the others too"
torch.distributed.destroy_process_group()
"""
)
made: dict = {}
exec(SHARED, made)
batches, networks, spiking = made["batches"], made["networks"], made["spiking"]


def test_two_processes_with_uneven_shares_give_the_result_of_one(tmp_path, together):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    together(WORK, *((rank, port, tmp_path) for rank in (0, 1)))
    one = compare(*networks(), batches(), into=CKA(measures=["rsa"], permutations=5), progress=False)
    nulls = compare(spiking(), loader=batches(), T=4, into=CKA(permutations={"steps": 1}), progress=False)
    assert one.data.permuted_xy.values.std() > 1e-3
    for rank in (0, 1):
        both, other = CKAResult.load(tmp_path / f"{rank}.nc"), CKAResult.load(tmp_path / f"null {rank}.nc")
        for found, expected in ((both, one), (other, nulls), (other.permuted_steps, nulls.permuted_steps)):
            for name in expected.data:
                tolerance = 1e-6 if name.startswith("sample") else 1e-12  # kept in float32
                assert np.allclose(found.data[name], expected.data[name], rtol=0, atol=tolerance, equal_nan=True), name


def test_without_a_process_group_reducing_changes_nothing():
    state = CKA()
    state.update({"a": batches()[0][None]})
    before = state.compute().data
    state.all_reduce()
    assert state.compute().data.identical(before)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merging_in_any_order_gives_the_same_values(order):
    parts = []
    for x in batches()[:3]:
        part = CKA(permutations=2, measures=["rsa"])
        part.update({"a": x[None], "b": x[None, :, :2]})
        parts.append(part)
    whole = CKA()
    for i in order:
        whole.merge(parts[i])
    expected = CKA(permutations=2, measures=["rsa"])
    for x in batches()[:3]:
        expected.update({"a": x[None], "b": x[None, :, :2]})
    found, other = whole.compute(), expected.compute()
    assert np.allclose(found.matrix(), other.matrix(), rtol=0, atol=1e-13)
    assert np.allclose(found.matrix(measure="rsa"), other.matrix(measure="rsa"), rtol=0, atol=1e-13)
    assert np.allclose(found.interval(), other.interval(), rtol=0, atol=1e-7)


def test_permutations_follow_the_seed_of_a_minibatch_wherever_it_is_seen():
    parts = []
    for seed, x in enumerate(batches()[:3]):
        parts.append(CKA(permutations=4))
        parts[-1].update({"a": x[None], "b": x[None, :, :2]}, seed=7 * seed)
    whole, other = CKA(permutations=4), CKA(permutations=4)
    for i in (0, 1, 2):
        whole.merge(parts[i])
        other.update({"a": batches()[i][None], "b": batches()[i][None, :, :2]}, seed=7 * i)
    found, expected = whole.compute().data, other.compute().data
    assert np.allclose(found.permuted_xy, expected.permuted_xy, rtol=0, atol=1e-13)
    assert found.batch_seed.values.tolist() == [0, 7, 14]
    with pytest.raises(ValueError, match="seed= for every minibatch or for none"):
        other.update({"a": batches()[0][None], "b": batches()[0][None, :, :2]})
