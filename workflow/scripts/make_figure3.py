"""Draw Figure 3."""

from xtalrl.report.crystal_pictures import make_figure3
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_figure3(**snakemake.input, **snakemake.output, **snakemake.params)
