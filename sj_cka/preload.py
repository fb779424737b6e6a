"""Imports what studies and their jobs need, without a look for garbage: there is none, and looking takes a CPU second.

What is there is not looked at later either, so that the processes of jobs, which are forks of one that has imported
this, share its memory.
"""

import gc

gc.disable()
import sj_cka.engine.work  # noqa: E402, F401

gc.freeze()
gc.enable()
