"""Imports what studies and their jobs need, without a look for garbage: there is none, and looking takes a CPU second.

What is there is not looked at later either, so that the processes of jobs, which are forks of one that has imported
this, share its memory.
"""

import gc

_enabled = gc.isenabled()
gc.disable()
try:
    import sj_cka.engine.work  # noqa: F401

    gc.freeze()
finally:
    if _enabled:
        gc.enable()
