"""Draw Figure 5."""

from xtalrl.report.distributions import make_figure5
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_figure5(**snakemake.input, **snakemake.output, **snakemake.params)
