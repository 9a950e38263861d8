"""Build the embedded textbook crystals in MP-20's columns."""

from xtalrl.structures.demo import write_csvs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    write_csvs(snakemake.input.crystals, dict(snakemake.output.items()))
