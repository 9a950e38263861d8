"""Find the hits of the campaign."""

from xtalrl.campaign.hits import find_campaign_hits
from xtalrl.workflow import job

with job(snakemake.log[0]):
    find_campaign_hits(**snakemake.input, **snakemake.output, **snakemake.params)
