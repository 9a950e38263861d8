"""Make Table 1."""

from xtalrl.report.tables import make_table1
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_table1(**snakemake.input, **snakemake.output, **snakemake.params)
