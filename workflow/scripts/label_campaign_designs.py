"""Label the computed designs of a round."""

from xtalrl.campaign.learning import label_designs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    label_designs(**snakemake.input, **snakemake.output)
