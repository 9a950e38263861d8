"""Choose the designs of a round that get an SCF."""

from xtalrl.campaign.screening import screen_designs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    screen_designs(**snakemake.input, **snakemake.output, **snakemake.params)
