"""Draw Figure 4."""

from xtalrl.report.figures import make_figure4
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_figure4(**snakemake.input, **snakemake.output, **snakemake.params)
