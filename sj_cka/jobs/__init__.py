"""Jobs: the pieces of work of a study, each a pure function from a spec to files.

`job` says what one is, `kinds` holds the functions, `weights` the files of networks, `machine` what they run on.
"""

from sj_cka.jobs.job import KINDS, Context, DataBlock, Files, Job, Kind, Report, canonical, silent
from sj_cka.jobs.kinds import read_result, run
from sj_cka.jobs.machine import backend_of, device, environment
from sj_cka.jobs.weights import network_spec, read_network

__all__ = [
    "KINDS",
    "Context",
    "DataBlock",
    "Files",
    "Job",
    "Kind",
    "Report",
    "backend_of",
    "canonical",
    "device",
    "environment",
    "network_spec",
    "read_network",
    "read_result",
    "run",
    "silent",
]
