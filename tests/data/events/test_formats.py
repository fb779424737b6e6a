"""The formats of cameras: as SpikingJelly reads them where they are whole, and one sentence where they are not."""

import struct

import numpy as np
import pytest
from spikingjelly.datasets.cifar10_dvs import _load_origin_data
from spikingjelly.datasets.utils import load_aedat_v3, load_ATIS_bin

from sj_cka.data import bin_events
from sj_cka.data.events.formats import Clock, read_aedat2, read_aedat3, read_atis

READERS = {
    "atis": (read_atis, load_ATIS_bin, "atis", (34, 34)),
    "aedat2": (read_aedat2, _load_origin_data, "aedat2", (128, 128)),
    "aedat3": (read_aedat3, load_aedat_v3, "aedat3", (128, 128)),
}
FORMAT = pytest.mark.parametrize("name", sorted(READERS))


@FORMAT
def test_whole_files_hold_the_events_that_spikingjelly_reads(name, formats, tmp_path):
    read, theirs, write, camera = READERS[name]
    written = formats.recording(*camera, seed=3, n=500)
    (tmp_path / "x").write_bytes(getattr(formats, write)(*written))
    found, expected = read(tmp_path / "x"), theirs(tmp_path / "x")
    for axis, own in zip("txyp", written, strict=True):
        assert np.array_equal(found[axis], own)
        assert np.array_equal(expected[axis], own)


def aedat3(**change):
    header = {"kind": 1, "size": 8, "overflow": 0, "capacity": 2, "number": 2} | change
    packet = struct.pack(
        "<HHIIIIII", header["kind"], 1, header["size"], 4, header["overflow"], header["capacity"], header["number"], 2
    )
    return b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + packet + struct.pack("<IIII", 5 << 17 | 7 << 2 | 3, 9, 1, 10)


def test_wraps_that_a_packet_counts_and_packets_of_other_kinds_are_understood(tmp_path):
    (tmp_path / "x").write_bytes(aedat3(overflow=1) + aedat3(kind=3)[28:])
    events = read_aedat3(tmp_path / "x")
    assert events["t"].tolist() == [2**31 + 9, 2**31 + 10]
    assert (events["x"][0], events["y"][0], events["p"][0]) == (5, 7, 1)


DVS, ATIS = b"#!AER-DAT2.0\r\n", "events of 40 bits of an ATIS camera"
DAVIS = DVS + b"# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n" + struct.pack(">II", 3 << 22 | 5 << 12, 7)
WRONG = [
    ("atis", DVS + bytes(21), f"expected {ATIS} .*, it is a recording in the format AEDAT 2.0"),
    ("atis", b"\x89PNG\r\n\x1a\n..", f"expected {ATIS} .*, it is a PNG image"),
    ("atis", b"% Data file containing", "it is a recording of a camera of Prophesee"),
    ("atis", b"", "the file is empty"),
    ("atis", bytes(13), "expected 5 bytes an event, got 13 bytes: the file is cut off in event 2"),
    ("aedat2", b"#!AER-DAT3.1\r\n", "expected a recording in AEDAT 2.0 .*, it is a recording in the format AEDAT 3.1"),
    ("aedat2", b"#!AER-DAT4.0\r\n", "it is a recording in the format AEDAT 4.0"),
    ("aedat2", b"#!AER-DAT1.0\r\n", "it is a recording in the format AEDAT 1.0"),
    ("aedat2", bytes(5000), "expected a recording in AEDAT 2.0 .*, it is zeros"),
    ("aedat2", b"\x01\x02\x03" * 99, "it is another kind of file, or a damaged one"),
    ("aedat2", DVS, "the file is empty"),
    ("aedat2", DVS + bytes(12), "expected 8 bytes an event, got 12 bytes: the file is cut off in event 1"),
    ("aedat2", DAVIS, r"addresses of a DVS128.* got 0xc05000 at event 0: the header names eu\.seebetter.*DAVIS240C"),
    ("aedat2", DVS + struct.pack(">IIII", 2, 1, 1 << 15, 7), "got 0x8000 at event 1: another camera's, or a damaged"),
    ("aedat3", DVS + bytes(8), "expected a recording in AEDAT 3.1 .*, it is a recording in the format AEDAT 2.0"),
    ("aedat3", b"#!AER-DAT3.1\r\n" + bytes(28), "expected lines with # up to #!END-HEADER, got none"),
    ("aedat3", b"#!AER-DAT3.1", "expected lines with # up to #!END-HEADER, got none"),
    ("aedat3", aedat3()[:40], "the file is cut off in the header of packet 0"),
    ("aedat3", aedat3()[:-1], "the file is cut off in packet 0"),
    ("aedat3", aedat3(capacity=2**32 - 1, size=2**32 - 1), "cut off in packet 0, or its header is damaged"),
    ("aedat3", aedat3(size=4, capacity=4), "expected events of 8 bytes in packet 0, got 2 of 4 with 4 bytes"),
    ("aedat3", aedat3(number=3), "expected events of 8 bytes in packet 0, got 3 of 2"),
    ("aedat3", aedat3(overflow=2**31), "and 2,147,483,648 wraps of the clock: its header is damaged"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_another_format_camera_or_a_damaged_file_is_told(name, content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        READERS[name][0](tmp_path / "x")


# clocks


@pytest.mark.parametrize("bits", [23, 32])
def test_times_run_on_where_a_clock_began_anew_however_often(bits):
    true = np.cumsum(np.random.default_rng(bits).integers(0, 1 << bits - 2, 60))
    found, real = Clock(bits).running(true % (1 << bits), np.zeros(60, int))
    assert real.all()
    assert np.array_equal(found - found[0], true - true[0])
    assert true[-1] >> bits > 3


def test_marks_add_what_has_passed_to_all_times_from_them_on_and_are_no_events():
    t, y = np.array([5, 8000, 8191, 3, 9, 1, 7]), np.array([0, 1, 240, 2, 3, 240, 4])
    found, real = Clock(23, mark=240).running(t, y)
    assert found.tolist() == [5, 8000, 8192 + 3, 8192 + 9, 2 * 8192 + 7]
    assert y[real].tolist() == [0, 1, 2, 3, 4]
    assert Clock(23).running(t, y)[0].tolist() == t.tolist()


@pytest.mark.parametrize("at", [2**23 - 1, 0])
def test_a_mark_where_the_clock_begins_anew_stands_for_that_alone(at):
    found, _ = Clock(23, mark=240).running(np.array([2**23 - 5, at, 2]), np.array([0, 240, 0]))
    assert found.tolist() == [2**23 - 5, 2**23 + 2]


def test_times_that_run_backwards_are_no_wrap():
    t = np.array([9, 8, 2**22, 5])
    assert Clock(23).running(t, np.zeros(4, int))[0].tolist() == t.tolist()


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([2**23 - 2, 5], "if a clock of 23 bits began anew there, add 8388608 us .*; their order is right$"),
        ([2**32 - 9, 2**30], "if a clock of 32 bits began anew there, add 4294967296 us"),
        ([2**16 - 1, 0], "if a clock of 16 bits began anew"),
        ([500, 2], "sort the events by time, if their order has no meaning$"),
        ([2**23 - 2, 2**23 - 3], "sort the events by time"),
    ],
)
def test_nobody_is_told_to_sort_events_at_a_wrap(t, message):
    with pytest.raises(ValueError, match=message):
        bin_events(t, [0, 0], [0, 0], [0, 0], T=1, H=1, W=1)


def test_times_beyond_what_can_be_counted_are_told():
    with pytest.raises(ValueError, match=r"expected t_us below 2\^63, got 18446744073709551615"):
        bin_events(np.array([2**64 - 1], np.uint64), [0], [0], [0], T=1, H=1, W=1)
