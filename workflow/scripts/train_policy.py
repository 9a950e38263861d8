"""Train policies of a seed. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from pathlib import Path

from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.training import TrainingSettings, train_policies
from xtalrl.workflow import job

with job(snakemake.log[0]):
    train_policies(
        [PolicySpec.from_dict(spec) for spec in snakemake.params.specs],
        TrainingSettings(**snakemake.config["training"]),
        seed=int(snakemake.wildcards.seed),
        threads=snakemake.threads,
        graphs=snakemake.input.graphs,
        trajectories=snakemake.input.trajectories,
        folders=[Path(path).parent for path in snakemake.output.policies],
    )
