"""Train the predictor that ships with xtalrl, on MP-20's train split with its metals, and put it into resources/pretrained.

    python tools/ship_predictor.py MP20/train.csv.gz

The model card, README.md beside it, is written by hand from what `benchmarks/predictor.py` prints.
"""

import argparse
import logging
from pathlib import Path

from xtalrl.dft.labels import take_source_labels
from xtalrl.rl.predictor_training import train_predictor
from xtalrl.rl.pretrained import FOLDER
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.neighbor_graphs import build_graphs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("csv", help="MP-20's train split")
parser.add_argument("--folder", type=Path, default=Path("results/predictor"), help="for crystals, graphs and labels")
parser.add_argument("--cache", default="results/cache", help="where graphs are kept")
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

files = {
    name: str(arguments.folder / f"{name}.parquet")
    for name in ("crystals", "rejected", "graphs", "without_graph", "labels", "held_out")
}
build_crystals({"train": arguments.csv}, files["crystals"], files["rejected"], 20, metals="dft", splits=["train"])
take_source_labels(files["crystals"], files["labels"])
build_graphs(files["crystals"], files["graphs"], files["without_graph"], arguments.cache)
train_predictor([(files["graphs"], files["labels"])], FOLDER / "predictor/predictor.safetensors", files["held_out"])
