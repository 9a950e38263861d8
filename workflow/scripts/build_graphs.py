"""Build the CrystalNN graphs."""

from xtalrl.structures.neighbor_graphs import build_graphs
from xtalrl.workflow import job

# The worker processes import this file.
if __name__ == "__main__":
    with job(snakemake.log[0]):
        build_graphs(**snakemake.input, **snakemake.output, cache=snakemake.config["cache"], workers=snakemake.threads)
