"""Build breadth-first trajectories."""

from xtalrl.rl.trajectories import build_trajectories
from xtalrl.workflow import job

with job(snakemake.log[0]):
    build_trajectories(**snakemake.input, **snakemake.output, **snakemake.params)
