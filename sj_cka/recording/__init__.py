"""What every layer of a network puts out, step by step.

Which axis of an output counts samples and which steps is found, not guessed: a network is run on a few samples as
(n, T) = (2, T), (3, T) and (2, T + 1), and what scales tells.
"""

from sj_cka.recording.drive import Layout, inputs_of, to_device
from sj_cka.recording.layers import LayerSpec, Select, patterns_of, select_for
from sj_cka.recording.observation_plan import ObservationPlan, plan_observation
from sj_cka.recording.record import Observation, Receive, What, record
from sj_cka.recording.snapshot import StateError
from sj_cka.recording.state import (
    at_rest,
    from_rest,
    is_neuron,
    keep_gradients,
    kept,
    modes_kept,
    neurons,
    preserved,
    reset_states,
    to_evaluation,
)
from sj_cka.recording.tap import Tap
from sj_cka.recording.trace import own_run
from sj_cka.recording.wrappers import as_written, check_network, named, unwrapped, without_wrappers

__all__ = [
    "LayerSpec",
    "Layout",
    "Observation",
    "ObservationPlan",
    "Receive",
    "Select",
    "StateError",
    "Tap",
    "What",
    "as_written",
    "at_rest",
    "check_network",
    "from_rest",
    "inputs_of",
    "is_neuron",
    "keep_gradients",
    "kept",
    "modes_kept",
    "named",
    "neurons",
    "own_run",
    "patterns_of",
    "plan_observation",
    "preserved",
    "record",
    "reset_states",
    "select_for",
    "to_device",
    "to_evaluation",
    "unwrapped",
    "without_wrappers",
]
