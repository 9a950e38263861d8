"""Take the skeletons of the campaign."""

from xtalrl.campaign.skeletons import take_skeletons
from xtalrl.workflow import job

with job(snakemake.log[0]):
    take_skeletons(
        **snakemake.input,
        **snakemake.output,
        wanted=snakemake.params.wanted,
        max_sites=snakemake.params.max_sites,
        limit=snakemake.params.limit,
        seed=snakemake.params.seed,
    )
