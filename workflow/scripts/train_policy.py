"""Train one policy. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.training import TrainingSettings, train_policy
from xtalrl.workflow import job

with job(snakemake.log[0]):
    train_policy(
        PolicySpec.from_dict(snakemake.params.spec),
        TrainingSettings(**snakemake.params.training),
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
        graphs=snakemake.input.graphs,
        trajectories=snakemake.input.trajectories,
        folder=snakemake.output.policy.rpartition("/")[0],
    )
