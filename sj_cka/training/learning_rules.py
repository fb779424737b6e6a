"""Learning rules: from a batch to the gradients of a network's weights, of which a step makes an update."""

from collections.abc import Callable

from torch import Tensor, nn

LearningRule = Callable[..., tuple[Tensor, Tensor]]


def capturable(rule: LearningRule) -> LearningRule:
    """Says of a rule that a CUDA graph may hold it: it waits for nothing on the device, and decides nothing by it."""
    rule.__dict__["capturable"] = True
    return rule


@capturable
def backprop(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scale: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Backpropagation through layers and time, with the surrogate gradients of the neurons.

    Args:
        network: with its states at rest, and without gradients.
        x: as the network takes it.
        y: labels `[N]`.
        forward: from x to logits, in the precision of the training and compiled where that is asked for.
        loss: from logits and labels to the loss, the mean over the batch of all processes.
        scale: from the loss to what gradients are taken of: in fp16 a multiple of it.

    Returns:
        Logits `[N, classes]` or `[T, N, classes]` and the loss; the gradients are in the `.grad` of the parameters.
    """
    logits = forward(x)
    value = loss(logits, y)
    scale(value).backward()
    return logits, value


# name -> rule, with the arguments of `backprop` and options of its own. Norms, sums over processes and the update are
# not its matter. Without `capturable` a step is never captured as a CUDA graph.
LEARNING_RULES: dict[str, LearningRule] = {"backprop": backprop}
