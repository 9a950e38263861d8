"""Draw Figure 7 or 8."""

from xtalrl.report.figures import make_settings_figure
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_settings_figure(**snakemake.input, **snakemake.output, **snakemake.params)
