"""Draw the learning curve of the designs."""

from xtalrl.report.learning_curve import make_learning_curve
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_learning_curve(
        **{**snakemake.input, "snapshots": list(snakemake.input.snapshots)}, **snakemake.output, **snakemake.params
    )
