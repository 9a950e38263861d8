#!/usr/bin/env bash
# What one NVIDIA GPU makes of the learner, in under 8 minutes: does it compute what a CPU computes, how fast, in how much memory, and what
# does rvs learn in the time that is left. Needs Python with torch, numpy, pyarrow and safetensors, and nothing else.
#
#   bash benchmarks/gpu.sh                                        # synthetic crystals of MP-20's number and sizes
#   bash benchmarks/gpu.sh graphs.parquet trajectories.parquet    # those of a run
#   bash benchmarks/gpu.sh --dry                                  # the same code on a CPU in seconds; its numbers mean nothing
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" "$here/gpu.py" "$@"
