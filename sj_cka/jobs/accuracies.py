"""How accurate a network is on both splits, as a file that several kinds of job leave."""

import json

import pandas as pd
from torch import nn

from sj_cka.data import Samples
from sj_cka.job import Read
from sj_cka.jobs.graph import Row
from sj_cka.training import accuracy

ACCURACY = "accuracy.json"


def accuracies(network: nn.Module, data: Samples) -> bytes:
    """The file."""
    splits = (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test))
    by_split = {split: accuracy(network, x, y, prepare=data.as_input) for split, x, y in splits}
    return json.dumps(by_split).encode()


def splits(read: Read) -> pd.DataFrame:
    """Columns split, accuracy."""
    return pd.DataFrame(json.loads(read(ACCURACY)).items(), columns=["split", "accuracy"])


def read_accuracies(row: Row, read: Read) -> pd.DataFrame:
    """Columns variant, kind, seed, split, accuracy."""
    network = row.at["network"]
    of_network = {"variant": network.variant, "kind": network.kind, "seed": row.at["seed"]}
    return pd.DataFrame([of_network | rest for rest in splits(read).to_dict("records")])
