"""Put a trained policy among those that ship with xtalrl.

    python tools/ship_policy.py results/pretrained/policies/rvs/seed0 mp20

The model card, README.md beside the weights, is written by hand from what `benchmarks/ablation.py score` prints.
"""

import argparse

from xtalrl.rl.pretrained import ship_policy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("trained", help="folder with policy.json and weights.safetensors")
parser.add_argument("name", help="name under resources/pretrained")
arguments = parser.parse_args()
ship_policy(arguments.trained, arguments.name)
