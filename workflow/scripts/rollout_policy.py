"""Fill the validation skeletons with one policy. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.workflow import job

with job(snakemake.log[0]):
    rollout_policy(
        folder=snakemake.input.policy.rpartition("/")[0],
        graphs=snakemake.input.graphs,
        trajectories=snakemake.input.trajectories,
        designs=snakemake.output.designs,
        device=snakemake.config["training"]["device"],
        settings=RolloutSettings(**snakemake.params.settings),
        target_ev=snakemake.params.target_ev,
        snapshot=snakemake.wildcards.get("step"),
    )
