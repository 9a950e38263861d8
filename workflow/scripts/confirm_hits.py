"""Confirm or withdraw the hits."""

from xtalrl.metrics.confirmation import confirm_hits
from xtalrl.workflow import job

with job(snakemake.log[0]):
    confirm_hits(**snakemake.input, **snakemake.output)
