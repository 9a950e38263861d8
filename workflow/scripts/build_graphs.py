"""Build the CrystalNN graphs."""

from xtalrl.structures.graphs import build_graphs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    build_graphs(**snakemake.input, **snakemake.output, workers=snakemake.threads)
