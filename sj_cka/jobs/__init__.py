"""Jobs: the pieces of work of a study. Each kind is a file with all that there is to know of it, and a line in `kinds`.

`graph` says what that is, `moments` which job leaves the weights of a network, `weights` and `accuracies` are files
that several kinds leave, `machine` is what jobs run on.
"""

from sj_cka.jobs.graph import Graph, Kind, Row
from sj_cka.jobs.kinds import KINDS, run
from sj_cka.jobs.machine import device, environment
from sj_cka.jobs.moments import network, trained
from sj_cka.jobs.weights import origins

__all__ = ["KINDS", "Graph", "Kind", "Row", "device", "environment", "network", "origins", "run", "trained"]
