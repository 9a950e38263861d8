"""Write the hits of the campaign, their crystals and the evidence."""

from xtalrl.campaign.evidence import hand_over
from xtalrl.workflow import job

with job(snakemake.log[0]):
    hand_over(**snakemake.input, **snakemake.output, **snakemake.params, cache=snakemake.config["cache"])
