"""Gather the outcomes of all shards."""

from xtalrl.dft.outcome_rows import gather_outcomes
from xtalrl.workflow import job

with job(snakemake.log[0]):
    gather_outcomes(list(snakemake.input.shards), snakemake.output.outcomes, snakemake.input.requests)
