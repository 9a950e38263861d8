"""Design for one round of the campaign. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from xtalrl.rl.proposals import propose_designs
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.workflow import job

with job(snakemake.log[0]):
    propose_designs(
        folder=snakemake.input.policy.rpartition("/")[0],
        graphs=snakemake.input.graphs,
        designs=snakemake.output.designs,
        device=snakemake.config["training"]["device"],
        settings=RolloutSettings(**snakemake.params.settings),
        target_ev=snakemake.params.target_ev,
        round_number=snakemake.params.round_number,
        seed=snakemake.params.seed,
        keep=snakemake.params.keep,
    )
