"""Learning rules: from a batch to the gradients of a network's weights, of which a step makes an update.

A rule is two choices, how errors go through space and what of the past an update knows, see `Rule`; the well-known
ones have names of their own here.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sj_cka.plugins import lookup
from sj_cka.training.credit.rule import Feedback, Rule, Space, Time

LearningRule = Callable[..., tuple[Tensor, Tensor]]


def capturable(rule: LearningRule) -> LearningRule:
    """Says of a rule that a CUDA graph may hold it: it waits for nothing on the device, and decides nothing by it."""
    rule.__dict__["capturable"] = True
    return rule


class Preset:
    """A learning rule of the table, made of what gives a `Rule` for options.

    Called as every rule of LEARNING_RULES:

    Args:
        network: with its states at rest, and without gradients.
        x: as the network takes it.
        y: labels `[N]`.
        forward: from x to logits, in the precision of the training and compiled where that is asked for.
        loss: from logits and labels to the loss, the mean over the batch of all processes.
        scale: from the loss to what gradients are taken of: in fp16 a multiple of it.
        options: of the rule.

    Returns:
        Logits `[N, classes]` or `[T, N, classes]` and the loss; the gradients are in the `.grad` of the parameters.
    """

    def __init__(self, rule: Callable[..., Rule]) -> None:
        self.rule = rule
        functools.update_wrapper(self, rule)
        handed = [p for p in inspect.signature(self.__call__).parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = list(inspect.signature(rule).parameters.values())
        self.__signature__ = inspect.Signature([*handed, *options])

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        forward: Callable[[Tensor], Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        scale: Callable[[Tensor], Tensor],
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        return self.rule(**options)(network, x, y, forward=forward, loss=loss, scale=scale)


@capturable
@Preset
def bptt() -> Rule:
    """Backpropagation through layers and time, with the surrogate gradients of the neurons."""
    return Rule()


@Preset
def tbptt(*, k: int) -> Rule:
    """BPTT through blocks of k steps."""
    return Rule(time="truncated", k=k)


@Preset
def fa(*, seed: int = 0) -> Rule:
    """Feedback alignment (Lillicrap et al. 2016), through time."""
    return Rule("feedback_alignment", seed=seed)


@Preset
def dfa(*, feedback: Feedback = "random", seed: int = 0) -> Rule:
    """Direct feedback alignment (Nøkland 2016), through time."""
    return Rule("direct_feedback_alignment", feedback=feedback, seed=seed)


@Preset
def le(*, seed: int = 0) -> Rule:
    """A local error for every layer of neurons, through time within the layer."""
    return Rule("local_error", seed=seed)


@Preset
def ottt() -> Rule:
    """Online training through time (Xiao et al. 2022)."""
    return Rule(time="presynaptic_trace")


@Preset
def sltt() -> Rule:
    """Spatial learning through time (Meng et al. 2023): each step by itself."""
    return Rule(time="none")


@Preset
def eprop(*, feedback: Feedback = "symmetric", seed: int = 0) -> Rule:
    """E-prop (Bellec et al. 2020): the output error, broadcast, meets an eligibility trace of every synapse."""
    return Rule("direct_feedback_alignment", "eligibility_trace", feedback=feedback, seed=seed)


@Preset
def decolle(*, seed: int = 0) -> Rule:
    """Deep continuous local learning (Kaiser et al. 2020): local errors that meet traces, online."""
    return Rule("local_error", "presynaptic_trace", seed=seed)


@Preset
def pair(*, space: Space, time: Time, k: int | None = None, feedback: Feedback = "random", seed: int = 0) -> Rule:
    """Any two choices, see `Rule`."""
    return Rule(space, time, k, feedback, seed)


def frozen(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The layer that classifies learns, all others keep their first weights: what a rule has to be better than."""
    learning = {f"{layer}.{p}" for layer in Rule().wiring(network, x).classifier for p in ("weight", "bias")}
    done = bptt(network, x, y, forward=forward, loss=loss, scale=scale)
    for name, parameter in network.named_parameters():
        if name not in learning:
            parameter.grad = None
    return done


# name -> rule, with the arguments of `Preset` and options of its own. Norms, sums over processes and the update are
# not its matter. Without `capturable` a step is never captured as a CUDA graph.
LEARNING_RULES: dict[str, LearningRule] = {
    "bptt": bptt,
    "tbptt": tbptt,
    "fa": fa,
    "dfa": dfa,
    "le": le,
    "ottt": ottt,
    "sltt": sltt,
    "eprop": eprop,
    "decolle": decolle,
    "pair": pair,
    "frozen": frozen,
}


def named_rule(rule: str | Mapping[str, Any]) -> tuple[LearningRule, dict[str, Any]]:
    """A learning rule of the table, and options of it.

    Raises:
        ValueError: no such rule, or neither a name nor a mapping with one.
    """
    options: dict[str, Any] = {"name": rule} if isinstance(rule, str) else {}
    if isinstance(rule, Mapping):
        options.update(rule)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"expected a name of LEARNING_RULES, or a mapping with `name` and options, got {rule!r}")
    return lookup(LEARNING_RULES, name, "learning rule"), options


def function_of(rule: str | Mapping[str, Any] | LearningRule) -> LearningRule:
    """A learning rule as a function, its options bound."""
    if callable(rule):
        return rule
    named, options = named_rule(rule)
    return functools.partial(named, **options)


def rule_of(rule: str | Mapping[str, Any] | LearningRule) -> Rule:
    """What a learning rule says that it is.

    Raises:
        ValueError: it does not say.
    """
    if isinstance(rule, Rule):
        return rule
    named, options = (rule, {}) if callable(rule) else named_rule(rule)
    if not isinstance(named, Preset):
        raise ValueError(
            f"expected a learning rule with a definition, made of a Rule, got {getattr(named, '__name__', named)!r}; "
            "say by `definition` what it is to be"
        )
    return named.rule(**options)
