"""What a network computes for an image, and the energy of that arithmetic: operations counted while it runs.

What a value costs depends on where it comes from, not on how it looks, so that neither a silent ReLU nor a binary
image is taken for spikes, and the count is the same in any batches:

- Spikes are what SpikingJelly's neurons and encoders put out, where that is whole numbers; m > 1 counts as m spikes.
  Each costs
  an accumulation for every weight it meets, at the border of an image those inside it.
- So do spikes that were copied, chosen, summed, averaged or multiplied by one constant on their way, in whatever
  layout, as by a pooling, by the sum of SEW ResNet or by the scale of `sj_cka.twins.converted_snn`: these steps are
  linear and fold into the weights. A mean over m spikes costs m accumulations. Of a maximum, the chosen value
  counts.
- Spikes of different worth that were mixed, as by a scale for each channel or the sum of neurons of two scales, do
  not: each value other than 0 costs a MAC for every weight it meets.
- Where spikes meet spikes (attention), each pair of values other than 0 costs an accumulation.
- Every other value, 0 or not, is dense and costs a MAC for every weight it meets: the images themselves, all values
  of an artificial network, what batch normalisation puts out.

Zeros of padding count neither way, so that neurons that fire at every step cost T times the operations of the twin.
The usual formula, and SpikingJelly's `MACCounter`, count them as MACs: 1.19 times this number for a convolution of
3x3 on an image of 8 x 8, 2.25 times on one of 2 x 2. SpikingJelly's `SynOpCounter` leaves them out too, and agrees
with `synops` where spikes are 0 and 1 and nothing else is: it takes every tensor of zeros and ones for spikes.
"""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from spikingjelly.activation_based import encoding
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sj_cka.recording import (
    as_written,
    check_network,
    from_rest,
    is_neuron,
    preserved,
    reset_states,
    to_evaluation,
    unwrapped,
)
from sj_cka.synops import Counter

_MAC_PJ, _SYNOP_PJ = 4.6, 0.9

ASSUMPTION = (
    f"45 nm, float32: {_MAC_PJ} pJ a multiply-accumulate and {_SYNOP_PJ} pJ an accumulation (Horowitz 2014, ISSCC); "
    "convolutions and matrix products alone, without batch normalisation, neurons and memory traffic"
)


class Cost(NamedTuple):
    """What an image costs: means over the images, and the number of parameters; see `cost`.

    Args:
        synops: synaptic operations, the accumulations that spikes drive.
        macs: multiply-accumulates.
        energy_nj: estimate of the energy in nJ, under ASSUMPTION.
        parameters: of the network; not a mean.
    """

    synops: float
    macs: float
    energy_nj: float
    parameters: int


@torch.no_grad()
def cost(network: nn.Module, images: Tensor, *, batch_size: int = 64, axis: int = 0) -> Cost:
    """Synaptic operations, multiply-accumulates and energy of an image, counted while a network sees images.

    Energy is 4.6 pJ a multiply-accumulate (MAC) and 0.9 pJ an accumulation: an addition, and for a MAC a multiplication
    of 3.7 pJ beside it, float32 in 45 nm (Horowitz 2014, ISSCC). Counted are convolutions and matrix products, as they
    are executed; a layer before the first neuron that runs once for all T steps counts once. Not counted are biases,
    batch normalisation (folded into weights and thresholds at inference), neurons, pooling and other arithmetic between
    the layers, and the traffic of memory, often the larger part of the energy, which depends on the hardware. A network
    of `converted_snn` is shown its input T times from the start, so that all its layers run T times.

    What a value costs, and what counts as a spike: see `sj_cka.energy`.

    Args:
        network: takes images `[N, ...]`; run in evaluation mode from reset states, and left as it was.
        images: `[N, ...]`, on the network's device; N from 1.
        batch_size: images a step, from 1.
        axis: that of the images; 1 for frames of recordings, `[T, N, ...]`.

    Returns:
        Means over the images. A neuron that is not one of SpikingJelly's or a subclass counts as dense, and so does
        what was done to spikes by other operations than copies, sums, means, products and pooling.

    Raises:
        ValueError: no images, a batch size below 1, or products of a kind that is not counted (of LSTM, bilinear, with
            vectors).

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> cost(nn.Sequential(neuron.IFNode(), nn.Linear(4, 3)), torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
        Cost(synops=6.0, macs=0.0, energy_nj=0.0054, parameters=15)
    """
    check_network(network, watched=False)
    N = images.shape[axis]
    if N < 1 or batch_size < 1:
        raise ValueError(
            f"expected one image or more and a batch size from 1, got images of shape {tuple(images.shape)} and "
            f"batch size {batch_size}"
        )
    counter = Counter()
    net = unwrapped(network)
    with as_written(), preserved(network), ExitStack() as undo, sdpa_kernel(SDPBackend.MATH):
        to_evaluation(network)
        few = images.narrow(axis, 0, min(2, N))
        from_rest(network, lambda: net(few.clone()))  # an artificial twin runs itself on probes the first time
        for module in network.modules():
            if is_neuron(module) or isinstance(module, encoding.StatelessEncoder | encoding.StatefulEncoder):
                undo.callback(module.register_forward_hook(counter.fired).remove)
        for batch in images.split(batch_size, axis):
            reset_states(network)
            batch = batch.clone()  # for a network that works in place
            counter.show(batch)
            with counter:
                net(batch)
    synops, macs = counter.synops / N, counter.macs / N
    energy_nj = (_SYNOP_PJ * synops + _MAC_PJ * macs) / 1000
    return Cost(synops, macs, energy_nj, sum(parameter.numel() for parameter in network.parameters()))
