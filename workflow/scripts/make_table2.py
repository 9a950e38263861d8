"""Make Table 2."""

from xtalrl.report.tables import make_table2
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_table2(**snakemake.input, **snakemake.output, **snakemake.params)
