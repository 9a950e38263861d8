"""Build the graphs of the filled skeletons of a round."""

from xtalrl.structures.filled import fill_crystals
from xtalrl.structures.neighbor_graphs import build_graphs
from xtalrl.workflow import job

# The worker processes import this file.
if __name__ == "__main__":
    with job(snakemake.log[0]):
        fill_crystals(**snakemake.input, filled=snakemake.output.filled)
        build_graphs(
            crystals=snakemake.output.filled,
            graphs=snakemake.output.graphs,
            failures=snakemake.output.failures,
            cache=snakemake.config["cache"],
            workers=snakemake.threads,
        )
