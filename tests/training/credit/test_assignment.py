"""What a rule sends where: local errors, scaling, what is left behind on a network."""

from dataclasses import replace

import pytest
import torch
from lively import Looped, batch, gradients, network, of_each_step, off
from spikingjelly.activation_based import functional
from torch import nn

from sj_cka.training.credit.alignment import per_step
from sj_cka.training.credit.certificate import certify
from sj_cka.training.credit.definition import by_definition
from sj_cka.training.credit.rule import Rule

BLOCKS = {"mlp": ["layer1.", "layer2.", "layer3.", "fc."], "convnet": ["stage1.", "stage2.", "fc."]}
DEEP = {"mlp": {"hidden": [10, 9, 8]}, "convnet": {}}


def of_block(found, prefix):
    return {name: g for name, g in found.items() if name.startswith(prefix)}


def same(one, other):
    assert set(one) == set(other)
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("time", ["bptt", "truncated", "presynaptic_trace", "eligibility_trace", "none"])
@pytest.mark.parametrize("model", BLOCKS)
def test_local_errors_know_nothing_of_the_blocks_above(model, time):
    net, (x, y) = network(model, recurrent=True, **DEEP[model]), batch(model)
    k = 3 if time == "truncated" else None
    before = {space: gradients(Rule(space, time, k), net, x, y) for space in ("local_error", "backprop")}
    names = BLOCKS[model]
    for i, above in reversed(list(enumerate(names[1:], start=1))):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.startswith(above):
                    parameter.mul_(1.5)
        for space in before:
            after = gradients(Rule(space, time, k), net, x, y)
            for below in names[:i]:
                assert same(of_block(after, below), of_block(before[space], below)) == (space == "local_error")


@pytest.mark.parametrize("time", ["bptt", "none"])
def test_a_local_loss_gives_the_block_below_nothing(time):
    """Without losses of its own, and of the logits, the block below has no error at all."""
    net, (x, y) = network(hidden=[10, 9, 8]), batch()
    functional.reset_net(net)
    net.zero_grad()
    count = []

    def only_the_second(logits, y):
        count.append(0)
        return of_each_step(logits, y) * ((len(count) - 1) % 3 == 1)

    Rule("local_error", time)(
        net,
        x,
        y,
        forward=net,
        loss=lambda logits, y: 0.0 * logits.sum(),
        local_loss=only_the_second,
        scale=lambda loss: loss,
    )
    moved = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"layer2"}


def test_the_certificate_of_local_errors_names_the_readout():
    (x, y) = batch()
    assert certify("le", network(), x, y).classifier == ("fc",)


@pytest.mark.parametrize("time", ["bptt", "truncated", "presynaptic_trace", "eligibility_trace", "none"])
@pytest.mark.parametrize("space", ["backprop", "feedback_alignment", "direct_feedback_alignment", "local_error"])
class TestAnyRule:
    def rule(self, space, time):
        return Rule(space, time, 3 if time == "truncated" else None)

    def test_scales_its_gradients_and_not_its_loss(self, space, time):
        net, (x, y) = network(), batch()
        found = gradients(self.rule(space, time), net, x, y)
        functional.reset_net(net)
        net.zero_grad()
        _, loss = self.rule(space, time)(net, x, y, forward=net, loss=of_each_step, scale=lambda value: 8 * value)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.grad, 8 * found[name], rtol=1e-12, atol=0)
        functional.reset_net(net)
        torch.testing.assert_close(loss, of_each_step(net(x), y), rtol=1e-12, atol=0)

    def test_runs_the_network_as_it_is_and_leaves_no_hook(self, space, time):
        net, (x, y) = network(recurrent="elementwise"), batch()
        expected = net(x).detach()
        functional.reset_net(net)
        logits, _ = self.rule(space, time)(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value)
        torch.testing.assert_close(logits.detach(), expected, rtol=1e-12, atol=1e-14)
        for module in net.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_adds_to_gradients_and_gives_the_same_twice(self, space, time):
        net, (x, y) = network(), batch()
        first = gradients(self.rule(space, time), net, x, y)
        assert same(first, gradients(self.rule(space, time), net, x, y))
        functional.reset_net(net)
        self.rule(space, time)(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.grad, 2 * first[name], rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("model", ["mlp", "convnet"])
    def test_leaves_nothing_for_the_empty_share_of_a_process(self, space, time, model):
        """And runs all the same, since batch normalisation over processes waits for every one of them."""
        net, (x, y) = network(model, recurrent="elementwise"), batch(model)
        for feedback in ("random", "symmetric") if space == "direct_feedback_alignment" else ("random",):
            rule = replace(self.rule(space, time), feedback=feedback)
            gradients(rule, net, x, y)
            functional.reset_net(net)
            net.zero_grad()
            logits, loss = rule(
                net, x[:, :0], y[:0], forward=net, loss=lambda z, y: of_each_step(z, y, "sum"), scale=lambda v: v
            )
            assert logits.shape == (8, 0, 4)
            assert loss == 0
            assert not any(p.grad.any() for p in net.parameters())

    @pytest.mark.parametrize("frozen", ["layer1.fc", "layer1.recurrent.v", "layer2.fc"])
    def test_passes_over_layers_that_are_frozen(self, space, time, frozen):
        net, (x, y) = network(recurrent="elementwise"), batch()
        rule = self.rule(space, time)
        expected = gradients(rule, net, x, y)
        net.get_submodule(frozen).requires_grad_(False)
        functional.reset_net(net)
        net.zero_grad(set_to_none=True)
        rule(net, x, y, forward=net, loss=of_each_step, scale=lambda value: value)
        for name, parameter in net.named_parameters():
            if name.startswith(frozen):
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-14)

    def test_takes_any_layout_in_memory(self, space, time):
        net, (x, y) = network("convnet"), batch("convnet")
        expected = gradients(self.rule(space, time), net, x, y)
        net.to(memory_format=torch.channels_last)
        images = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)
        found = gradients(self.rule(space, time), net, images, y)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-14)

    def test_takes_a_network_that_goes_through_its_steps_itself(self, space, time):
        net, (x, y) = network(), batch()
        expected = gradients(self.rule(space, time), net, x, y)
        looped = Looped(net)
        found = gradients(self.rule(space, time), looped, x, y)
        assert max(off(found, expected).values()) < 1e-12
        assert max(off(by_definition(self.rule(space, time), looped, x, y, per_step), expected).values()) < 1e-12


def test_hooks_go_when_a_batch_ends_in_an_error():
    net, (x, y) = network(), batch()

    def fails(logits, y):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        Rule("local_error", "none")(net, x, y, forward=net, loss=fails, scale=lambda value: value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_samples_are_each_for_themselves():
    """The gradients of a batch are the mean of those of its samples, traces and all."""
    net, (x, y) = network(), batch()
    for rule in (Rule(time="presynaptic_trace"), Rule("direct_feedback_alignment", "eligibility_trace")):
        whole = gradients(rule, net, x, y)
        parts = []
        for n in range(len(y)):
            functional.reset_net(net)
            net.zero_grad()
            rule(net, x[:, n : n + 1], y[n : n + 1], forward=net, loss=of_each_step, scale=lambda value: value)
            parts.append({name: p.grad.clone() for name, p in net.named_parameters()})
        for name, gradient in whole.items():
            mean = torch.stack([part[name] for part in parts]).mean(0)
            torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-14)


def test_images_shown_at_every_step_are_as_frames():
    net, (x, y) = network(), batch()
    image, frames = x[0], x[:1].expand_as(x)
    for rule in (Rule(time="none"), Rule("feedback_alignment", "presynaptic_trace")):
        assert same(gradients(rule, net, image, y), gradients(rule, net, frames, y))
    for rule in (Rule("feedback_alignment"), Rule("direct_feedback_alignment"), Rule("local_error")):
        for name, gradient in gradients(rule, net, image, y).items():
            torch.testing.assert_close(gradient, gradients(rule, net, frames, y)[name], rtol=1e-10, atol=1e-14)


def test_a_loss_of_its_own_may_be_given_to_local_readouts():
    net, (x, y) = network(), batch()
    rule = Rule("local_error")
    found = gradients(rule, net, x, y, local_loss=lambda logits, y: 3 * of_each_step(logits, y))
    plain = gradients(rule, net, x, y)
    for name, gradient in plain.items():
        times = 1 if name.startswith("fc.") else 3
        torch.testing.assert_close(found[name], times * gradient, rtol=1e-12, atol=1e-14)


def test_activations_of_an_artificial_network_are_blocks():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0.0), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)
    ).double()
    x, y = torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 3
    of = nn.functional.cross_entropy
    back = gradients(Rule(), net, x, y, loss=of)
    for space in ("feedback_alignment", "direct_feedback_alignment", "local_error"):
        found = gradients(Rule(space), net, x, y, loss=of)
        assert torch.allclose(found["5.weight"], back["5.weight"], rtol=1e-12)
        assert not torch.allclose(found["0.weight"], back["0.weight"], rtol=0.1)
