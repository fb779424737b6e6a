"""A step that waits for nothing, as a CUDA graph takes it; a tape stands in for the graph."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sj_cka.models import build
from sj_cka.recording import reset_states
from sj_cka.training import Settings
from sj_cka.training.step import GraphStep, Step

_spec = importlib.util.spec_from_file_location("tape", Path(__file__).with_name("tape.py"))
assert _spec is not None
assert _spec.loader is not None
_tape = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tape)
Tape = _tape.Tape

SETTINGS = Settings(batch_size=8, lr=0.1, clip=1.0)


def network() -> nn.Module:
    model = {"name": "resnet", "depth": 8}
    return build("snn", model, in_channels=1, num_classes=4, T=2, seed=0).train()


def batches(n: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 1, 8, 6, generator=generator), torch.randint(4, (size,), generator=generator))
        for _ in range(n)
    ]


def weights(net: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Replayed:
    """A step as `GraphStep` takes it, by a tape."""

    def __init__(self, step: Step, x: Tensor, y: Tensor) -> None:
        self.step, self.x, self.y = step, x.clone(), y.clone()
        before = copy.deepcopy((step.network.state_dict(), step.state_dict(), step.sums))
        with Tape() as self.tape:
            self.loss = step(self.x, self.y, len(y))
        # a capture runs nothing
        step.network.load_state_dict(before[0])
        for p, state in zip(
            step.optimiser.param_groups[0]["params"], before[1]["optimiser"]["state"].values(), strict=True
        ):
            step.optimiser.state[p]["momentum_buffer"].copy_(state["momentum_buffer"])
        step.sums.copy_(before[2])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.x.copy_(x)
        self.y.copy_(y)
        self.tape.replay()
        return self.loss.clone()


def trained(net: nn.Module, replay: bool, deferred: bool = True) -> tuple[list[Tensor], list[float], Tensor]:
    """Weights, losses and sums after 3 steps, 4 more that are replayed or not, and a short one, at falling rates."""
    step = Step(net, SETTINGS, deferred=deferred)
    losses, graph = [], None
    for i, (x, y) in enumerate([*batches(7), *batches(1, size=5)]):
        step.set_rate(0.1 / (i + 1))
        if i == 3 and replay:
            graph = Replayed(step, x, y)
        losses.append(graph(x, y) if graph and len(y) == 8 else step(x, y, len(y)))
    reset_states(net)
    return weights(net), [float(loss) for loss in losses], step.sums


def test_a_replayed_step_is_the_step_to_the_bit_at_other_rates_and_after_a_short_batch() -> None:
    eager, replayed = trained(network(), replay=False), trained(network(), replay=True)
    assert eager[1] == replayed[1]
    assert same(eager[0], replayed[0])
    assert torch.equal(eager[2], replayed[2])


def test_a_rate_that_is_a_number_is_frozen_by_a_replay() -> None:
    eager, replayed = (trained(network(), replay=replay, deferred=False) for replay in (False, True))
    assert eager[1] != replayed[1]


def test_deferred_steps_differ_from_the_others_by_rounding_alone() -> None:
    own, plain = trained(network(), replay=False), trained(network(), replay=False, deferred=False)
    assert own[1][:2] == pytest.approx(plain[1][:2], rel=1e-5)
    for a, b in zip(own[0], plain[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_nothing_in_a_step_waits_for_the_device() -> None:
    step = Step(network(), SETTINGS, deferred=True)
    [(x, y)] = batches(1)
    step(x, y, 8)
    with Tape() as tape:
        step.set_rate(0.05)
        step(x, y, 8)
    assert len(tape.names) > 100
    assert not [name for name in tape.names if "_local_scalar_dense" in name or "nonzero" in name]


def half(net: nn.Module, scale: float) -> Step:
    """A step whose gradients are scaled, as in fp16 on CUDA."""
    step = Step(net, SETTINGS, deferred=True)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return step


def test_the_scale_grows_and_backs_off_in_a_replay_as_in_a_step() -> None:
    scales: list[list[float]] = []
    ends = []
    for replay in (False, True):
        net = network()
        step, graph, own = half(net, 2.0**10), None, []
        for i, (x, y) in enumerate(batches(9)):
            if i == 6:
                x = x * float("inf")
            if i == 3 and replay:
                graph = _replayed_with_scale(step, x, y)
            if graph:
                graph(x, y)
            else:
                step(x, y, 8)
            own.append(float(step.scaler.get_scale()))
        scales.append(own)
        ends.append([p.detach().clone() for p in net.parameters()])
    assert scales[0] == scales[1]
    assert scales[0][5] > scales[0][1] > scales[0][0]
    assert scales[0][6] == scales[0][5] / 2
    assert all(torch.isfinite(p).all() for p in ends[0])
    assert same(ends[0], ends[1])


def _replayed_with_scale(step: Step, x: Tensor, y: Tensor) -> Replayed:
    scale, tracker = step.scaler._scale.clone(), step.scaler._growth_tracker.clone()  # type: ignore[union-attr]
    graph = Replayed(step, x, y)
    step.scaler._scale.copy_(scale)  # type: ignore[union-attr]
    step.scaler._growth_tracker.copy_(tracker)  # type: ignore[union-attr]
    return graph


def test_an_overflow_in_the_first_step_leaves_weights_and_momentum_as_they_were() -> None:
    net = network()
    step = half(net, 2.0**10)
    before = [p.detach().clone() for p in net.parameters()]
    [(x, y)] = batches(1)
    step(x * float("inf"), y, 8)
    assert same(before, list(net.parameters()))
    assert all(not step.optimiser.state[p]["momentum_buffer"].any() for p in net.parameters())


def test_a_deferred_step_goes_on_from_its_own_state_and_from_that_of_another_device() -> None:
    ways = []
    for deferred in (True, False):
        whole, parts = network(), network()
        step = Step(whole, SETTINGS, deferred=deferred)
        for x, y in batches(4):
            step(x, y, 8)
        first = Step(parts, SETTINGS, deferred=deferred)
        for x, y in batches(4)[:2]:
            first(x, y, 8)
        saved = copy.deepcopy(first.state_dict())
        second = Step(parts, SETTINGS, deferred=True)
        second.load_state_dict(saved)
        assert second.optimiser.param_groups[0]["lr"] is second.options["lr"]
        assert second.optimiser.param_groups[0]["fused"] is True
        for x, y in batches(4)[2:]:
            second(x, y, 8)
        ways.append((weights(whole), weights(parts)))
    assert same(*ways[0])
    for a, b in zip(*ways[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Capture:
    """Stands in for torch.cuda.graph: fails as a capture does, or runs nothing that lasts."""

    def __init__(self, *_: Any, stream: Any, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", Capture)


@pytest.mark.usefixtures("captures")
def test_a_step_that_cannot_be_captured_goes_on_as_it_is_and_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, graphed = network(), network()
    step, other = half(plain, 2.0**10), half(graphed, 2.0**10)
    graph = GraphStep(other)
    monkeypatch.setattr(other, "new_scaler", lambda: torch.amp.GradScaler("cpu", growth_interval=2))
    real = other.scaler.update

    def waits(*args: Any) -> None:
        if graph.before == 0 and not graph.refused and len(calls) == 3:
            raise RuntimeError("operation not permitted when stream is capturing\n\nCompile with ...")
        real(*args)

    calls: list[float] = []
    monkeypatch.setattr(other.scaler, "update", waits)
    for x, y in batches(6):
        step(x, y, 8)
        calls.append(float(graph(x, y, 8)))
    assert graph.refused
    assert "not captured as a CUDA graph and runs as it is: operation not permitted" in caplog.text
    assert step.scaler.get_scale() == other.scaler.get_scale()
    assert len(calls) == 6


def test_three_steps_warm_up_and_a_batch_of_another_shape_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Watched(GraphStep):
        def _capture(self, x: Tensor, y: Tensor, size: int) -> None:
            self.x, self.y, self.size, self.loss = x.clone(), y.clone(), size, torch.zeros(())
            self.graph = self  # type: ignore[assignment]

        def replay(self) -> None:
            done.append("replay")

    step = Step(network(), SETTINGS, deferred=True)
    graph = Watched(step)
    monkeypatch.setattr(Step, "__call__", lambda self, x, y, size, look=None: done.append("step") or torch.zeros(()))
    for x, y in [*batches(4), *batches(1, size=5), *batches(1)]:
        graph(x, y, len(y))
    assert done == ["step", "step", "step", "replay", "step", "replay"]
