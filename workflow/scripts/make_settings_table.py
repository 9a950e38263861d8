"""Make Table 3 or 4."""

from xtalrl.report.tables import make_settings_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_settings_table(**snakemake.input, **snakemake.output, **snakemake.params)
