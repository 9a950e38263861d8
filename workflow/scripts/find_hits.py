"""Find the designs that hit their target."""

from xtalrl.metrics.confirmation import find_hits
from xtalrl.workflow import job

with job(snakemake.log[0]):
    find_hits(**snakemake.input, **snakemake.output, **snakemake.params)
