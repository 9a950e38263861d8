"""Make the table of designs over training."""

from xtalrl.report.learning_curve import make_designs_over_training
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_designs_over_training(
        **{**snakemake.input, "snapshots": list(snakemake.input.snapshots)}, **snakemake.output, **snakemake.params
    )
