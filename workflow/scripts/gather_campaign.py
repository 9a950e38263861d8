"""Gather the rounds of the campaign."""

from xtalrl.campaign.hits import gather_rounds
from xtalrl.workflow import job

with job(snakemake.log[0]):
    gather_rounds(**snakemake.input, **snakemake.output)
