"""What every layer of a network puts out, step by step.

Which axis of an output counts samples and which steps is found, not guessed: a network is run on a few samples as
(n, T) = (2, T), (3, T) and (2, T + 1), and what scales tells.
"""

from sj_cka.recording.drive import Layout, inputs_of, to_device
from sj_cka.recording.layers import LayerSpec
from sj_cka.recording.plan import Plan, plan
from sj_cka.recording.record import Observation, record
from sj_cka.recording.state import is_neuron, preserved, reset_states

__all__ = [
    "LayerSpec",
    "Layout",
    "Observation",
    "Plan",
    "inputs_of",
    "is_neuron",
    "plan",
    "preserved",
    "record",
    "reset_states",
    "to_device",
]
