"""Draw Figure 2 or 6."""

from xtalrl.report.figures import make_figure2
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_figure2(**snakemake.input, **snakemake.output, **snakemake.params)
