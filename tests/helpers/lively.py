"""Small networks in float64 whose neurons spike, and gradients that are compared only where there are some."""

import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_cka.models import build
from sj_cka.recording import is_neuron

T, N, D, CLASSES = 8, 5, 12, 4
SOFT = {"name": "lif", "v_threshold": 0.4, "v_reset": None, "detach_reset": True}
MODELS = {
    "mlp": {"name": "mlp", "inputs": D, "hidden": (11, 9), "norm": "none"},
    "convnet": {"name": "convnet", "channels": (4, 6), "pools": 1, "norm": "none"},
}
SHAPES = {"mlp": (D,), "convnet": (2, 6, 4)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _neuron(changes):
    """SOFT with changes; a synaptic current knows the soft reset alone."""
    made = SOFT | changes
    return {k: v for k, v in made.items() if k != "v_reset" or made["name"] != "current_lif"}


def network(model="mlp", neuron=None, kind="snn", seed=0, **options):
    """In evaluation mode but for the neurons, which have no surrogate gradient there in 2.0.0rc1; biases are not 0."""
    made = build(
        kind,
        MODELS[model] | options,
        in_channels=2 if model == "convnet" else 1,
        num_classes=CLASSES,
        T=T,
        neuron=_neuron(neuron or {}),
        seed=seed,
    ).double()
    with torch.no_grad():
        for i, (name, parameter) in enumerate(made.named_parameters()):
            if name.endswith("bias"):
                parameter.add_(0.1 * random(*parameter.shape, seed=i))
    made.eval()
    for module in made.modules():
        if is_neuron(module):
            module.train()
    return made


class Looped(nn.Module):
    """The same network of `mlp`, whose layers and neurons take one step a call, of frames `[T, N, D]`."""

    def __init__(self, net):
        super().__init__()
        self.layer1, self.layer2, self.fc = net.layer1, net.layer2, net.fc
        functional.set_step_mode(self, "s")

    def forward(self, x):
        steps = []
        for s in x:
            for one in (self.layer1, self.layer2):
                s = one.lif(one.fc(s))
            steps.append(self.fc(s))
        return torch.stack(steps)


def batch(model="mlp", seed=1):
    """Frames `[T, N, ...]` and labels `[N]`."""
    return random(T, N, *SHAPES[model], seed=seed), torch.arange(N) % CLASSES


def of_each_step(logits, y, reduction="mean"):
    """Cross-entropy, mean over steps, and over samples or their sum."""
    return torch.stack([nn.functional.cross_entropy(of_step, y, reduction=reduction) for of_step in logits]).mean()


def of_mean_logits(logits, y):
    return nn.functional.cross_entropy(logits.mean(0), y)


def gradients(rule, net, x, y, loss=of_each_step, **options):
    """Name of a parameter -> gradient that a rule leaves, from rest; some of each neuron layer's spikes are 1."""
    functional.reset_net(net)
    net.zero_grad(set_to_none=True)
    watched = [(n, m) for n, m in net.named_modules() if is_neuron(m)]
    sums = {name: 0.0 for name, _ in watched}

    def count(name):
        def hook(module, args, out):
            sums[name] += float(out.detach().sum())

        return hook

    hooks = [module.register_forward_hook(count(name)) for name, module in watched]
    rule(net, x, y, forward=net, loss=loss, scale=lambda value: value, **options)
    for hook in hooks:
        hook.remove()
    assert all(sums.values()), f"silent neurons: {sums}"
    found = {name: p.grad for name, p in net.named_parameters()}
    assert all(g is not None and g.any() for g in found.values()), "a gradient of zero would prove nothing"
    return {name: g.clone() for name, g in found.items()}


def off(found, expected):
    """Name -> relative difference of gradients."""
    assert set(found) == set(expected)
    assert all(g.any() for g in expected.values()), "a gradient of zero would prove nothing"
    return {name: float((found[name] - g).norm() / g.norm()) for name, g in expected.items()}


def cosine(one, other):
    return float((one * other).sum() / (one.norm() * other.norm()))
