"""Make the table of the desired range."""

from xtalrl.report.tables import make_desired_range_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_desired_range_table(**snakemake.input, **snakemake.output, **snakemake.params)
