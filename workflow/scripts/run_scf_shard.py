"""Run the SCFs of one shard, resumably."""

from xtalrl.dft.shards import run_shard
from xtalrl.workflow import job

with job(snakemake.log[0]):
    run_shard(
        requests=snakemake.input.requests,
        family=snakemake.input.family,
        shard=int(snakemake.wildcards.shard),
        outcomes=snakemake.output.outcomes,
        workers=snakemake.threads,
        runtime_min=snakemake.resources.get("runtime"),
        command=snakemake.config["dft"]["command"],
        cache=snakemake.config["cache"],
        **snakemake.params,
    )
