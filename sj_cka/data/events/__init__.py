"""Event recordings: binned into frames, read from public sets, or simulated.

`binning` counts events in time steps, `saccades` simulates a camera. A public set passes through `raw_files` (what its
published files look like), `preparation` (SpikingJelly's conversion of them), `recordings` (listing and reading),
`integration` (frames of all of them) and `frame_files` (which keeps these on disk); `sets` is the table.
"""

from sj_cka.data.events.binning import bin_events, bin_spikes
from sj_cka.data.events.saccades import digits_dvs, photos_dvs, saccades
from sj_cka.data.events.sets import EVENT_SETS, EVENT_SHAPES

__all__ = ["EVENT_SETS", "EVENT_SHAPES", "bin_events", "bin_spikes", "digits_dvs", "photos_dvs", "saccades"]
